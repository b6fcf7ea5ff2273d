//! `hourglass nats`: users of the broker with no more rights than they need.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hourglass_agent::users;
use hourglass_units::{AgentId, Region};
use serde_json::json;

use crate::failure::Failure;
use crate::output::{Format, answer};

/// Users of the NATS server: make a key, and print what nats-server.conf must say.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    user: User,
}

#[derive(Debug, clap::Subcommand)]
enum User {
    /// A user for an agent: it may publish its own usage and hear its own watermark, nothing else
    AgentUser {
        /// The agent's name
        #[arg(long, value_name = "ID")]
        agent: AgentId,
        #[command(flatten)]
        key: Key,
    },
    /// A user for the cell: it may own its streams, consume usage, publish watermarks and feeds
    CellUser {
        #[command(flatten)]
        key: Key,
    },
}

#[derive(Debug, clap::Args)]
struct Key {
    /// The region
    #[arg(long, value_name = "NAME")]
    region: Region,
    /// The partition of the region
    #[arg(long, value_name = "N", default_value_t = 0)]
    partition: u32,
    /// Where to write the new key's seed; whoever has it is that user. An existing file is not replaced: its
    /// user is printed again
    #[arg(long, value_name = "FILE")]
    seed_file: PathBuf,
}

/// Runs the command.
pub fn run(args: Args, format: Format) -> Result<(), Failure> {
    let key = match &args.user {
        User::AgentUser { key, .. } | User::CellUser { key } => key,
    };
    let public = public_key(&key.seed_file)?;
    let entry = match &args.user {
        User::AgentUser { agent, .. } => users::agent_user(&key.region, key.partition, agent, &public),
        User::CellUser { .. } => users::cell_user(&key.region, key.partition, &public),
    };
    if format == Format::People {
        eprintln!("the seed is in {}; add this to nats-server.conf:", key.seed_file.display());
    }
    answer(format, &json!({ "public_key": public, "entry": entry }), |_| {
        let indented = entry.lines().map(|line| format!("    {line}\n")).collect::<String>();
        format!("authorization {{\n  users = [\n{indented}  ]\n}}")
    })
}

/// The public key of the seed in a file, which is made where there is none.
fn public_key(path: &Path) -> Result<String, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::Usage(format!("{}: {error}", path.display()));
    let new = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
    let pair = match new {
        Ok(mut file) => {
            let pair = nkeys::KeyPair::new_user();
            let seed = pair.seed().map_err(|error| wrong(&error))?;
            file.write_all(format!("{seed}\n").as_bytes())
                .and_then(|()| file.sync_all())
                .map_err(|error| wrong(&error))?;
            pair
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let seed = crate::config::read(path)?;
            nkeys::KeyPair::from_seed(seed.trim()).map_err(|error| wrong(&error))?
        }
        Err(error) => return Err(wrong(&error)),
    };
    Ok(pair.public_key())
}
