//! `hourglass key`: create, list and revoke API keys.

use std::collections::BTreeSet;

use hourglass_consumers::auth::{KeyDraft, draw_key};
use hourglass_ledger::cell::Clock;
use hourglass_ledger::core::{Command, Credential, KeyId, Outcome, Role, Scope};
use hourglass_units::{AgentId, Instant, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{instant, milliseconds};
use crate::client::{Client, Server, not_understood};
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, table};
use crate::wire::{self, WallClock};

/// API keys: create, list, revoke.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --server these work on the data directory, while no cell runs on it. With it they ask that cell, with the \
credential in HOURGLASS_TOKEN, or the operator's token in HOURGLASS_OPERATOR_TOKEN.")]
pub struct Args {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Create a key and show it, this once
    Create(Create),
    /// List keys, without their secrets
    List,
    /// Take a key back, at once and for good
    Revoke {
        /// Which, as `key list` names it
        id: KeyId,
    },
}

#[derive(Debug, clap::Args)]
struct Create {
    /// What its bearer is: customer, finance, trader, planner, compute, operator or agent
    #[arg(long)]
    role: Role,
    /// Of which tenant: for the role customer
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Which agent: for the role agent
    #[arg(long)]
    agent: Option<AgentId>,
    /// For people
    #[arg(long, default_value = "")]
    name: String,
    /// Narrow it to part of the role: read, write, ingest, metrics or keys [default: all that the role has]
    #[arg(long)]
    scope: Vec<Scope>,
    /// How long it holds, such as 90d
    #[arg(long, value_name = "DURATION", value_parser = milliseconds, conflicts_with = "expires_at")]
    expires_in: Option<i64>,
    /// Until when it holds, in RFC 3339 or as a date
    #[arg(long, value_name = "TIME", value_parser = instant)]
    expires_at: Option<Instant>,
}

/// What was created, as the API answers too.
#[derive(Debug, Serialize, Deserialize)]
struct Created {
    id: String,
    key: String,
}

/// A key in a list, as the API answers too.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    id: String,
    name: String,
    role: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    scopes: Vec<String>,
    created_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked_at: Option<String>,
    active: bool,
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let client = args.server.client()?;
    match args.action {
        Action::Create(create) => {
            let draft = draft(create)?;
            let created = match client {
                Some(client) => create_there(&client, &draft)?,
                None => create_here(settings, draft)?,
            };
            show(&created, format)
        }
        Action::List => {
            let rows = match client {
                Some(client) => {
                    let rows = client.list("/v1/keys")?.into_iter().map(serde_json::from_value);
                    rows.collect::<Result<Vec<Row>, _>>().map_err(|error| not_understood(&error))?
                }
                None => {
                    let (_reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
                    let now = WallClock.now().max(loaded.state.now());
                    loaded.state.credentials().iter().map(|key| row(key, now)).collect()
                }
            };
            answer(format, &rows, |rows| text(rows))
        }
        Action::Revoke { id } => {
            match client {
                Some(client) => client.post(&format!("/v1/keys/{id}:revoke"), &json!({})).map(|_| ())?,
                None => submit(settings, Command::RevokeKey { id: id.clone() })?,
            }
            answer(format, &json!({"id": id, "revoked": true}), |_| format!("key {id} is revoked"))
        }
    }
}

fn draft(create: Create) -> Result<KeyDraft, Failure> {
    let Create { role, tenant, agent, name, scope, expires_in, expires_at } = create;
    let expires_at = expires_at.or_else(|| expires_in.map(|ms| WallClock.now().saturating_add_ms(ms)));
    let bound = |given: bool, to: Role, flag: &str| match (given, role == to) {
        (true, false) => Err(Failure::Usage(format!("{flag} is for --role {to} only"))),
        (false, true) => Err(Failure::Usage(format!("--role {to} needs {flag}"))),
        _ => Ok(()),
    };
    bound(tenant.is_some(), Role::Customer, "--tenant")?;
    bound(agent.is_some(), Role::Agent, "--agent")?;
    Ok(KeyDraft { name, role, tenant, agent, scopes: scope.into_iter().collect::<BTreeSet<_>>(), expires_at })
}

fn create_here(settings: &Resolved, draft: KeyDraft) -> Result<Created, Failure> {
    let (key, grant) = draw_key(draft).map_err(|error| Failure::Usage(error.to_string()))?;
    submit(settings, Command::CreateKey(grant))?;
    Ok(Created { id: key.id().to_string(), key: key.reveal() })
}

fn create_there(client: &Client, draft: &KeyDraft) -> Result<Created, Failure> {
    let KeyDraft { name, role, tenant, agent, scopes, expires_at } = draft;
    let body = json!({"name": name, "role": role, "tenant": tenant, "agent": agent, "scopes": scopes,
        "expires_at": expires_at.map(|at| at.to_string())});
    let created = client.post("/v1/keys", &body)?;
    serde_json::from_value(created).map_err(|error| not_understood(&error))
}

fn submit(settings: &Resolved, command: Command) -> Result<(), Failure> {
    let cell = wire::writing_cell(settings, log_progress("recovering the ledger"))?;
    let outcome = cell.handle().submit_blocking(command);
    cell.close();
    let _done: Outcome = outcome?;
    Ok(())
}

/// The key alone goes to stdout, so that it can be piped to where it is kept.
fn show(created: &Created, format: Format) -> Result<(), Failure> {
    if format == Format::People {
        eprintln!("key {} is created; it is shown this once, and nobody can show it again:", created.id);
    }
    answer(format, created, |created| created.key.clone())
}

fn row(key: &Credential, now: Instant) -> Row {
    let grant = &key.grant;
    Row {
        id: grant.id.to_string(),
        name: grant.name.clone(),
        role: grant.role.to_string(),
        tenant: grant.tenant.as_ref().map(ToString::to_string),
        agent: grant.agent.as_ref().map(ToString::to_string),
        scopes: grant.scopes.iter().map(ToString::to_string).collect(),
        created_at: key.created_at.to_string(),
        expires_at: grant.expires_at.map(|at| at.to_string()),
        revoked_at: key.revoked_at.map(|at| at.to_string()),
        active: key.holds_at(now),
    }
}

fn text(rows: &[Row]) -> String {
    let cells = rows.iter().map(|it| {
        let state = match (&it.revoked_at, it.active) {
            (Some(at), _) => format!("revoked {at}"),
            (None, true) => "active".to_owned(),
            (None, false) => "expired".to_owned(),
        };
        let of = it.tenant.clone().or_else(|| it.agent.clone()).unwrap_or_default();
        let expires = it.expires_at.clone().unwrap_or_else(|| "never".to_owned());
        vec![it.id.clone(), it.name.clone(), it.role.clone(), of, it.scopes.join(" "), expires, state]
    });
    table(&["key", "name", "role", "of", "scopes", "expires", "state"], &[], cells)
}
