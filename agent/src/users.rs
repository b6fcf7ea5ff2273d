//! NATS users with no more rights than they need, as text for `nats-server.conf`.
//!
//! A subject is an identity only where the broker holds agents to it: each agent may publish on its own
//! usage subject, listen to its own watermark and its own answers, and nothing else.

use hourglass_proto::subjects::Subjects;
use hourglass_units::{AgentId, Region};

use crate::connection::inbox_prefix;

/// What an agent may do: an entry of `authorization.users`. `public_key` is that of its nkey (`U…`).
pub fn agent_user(region: &Region, partition: u32, agent: &AgentId, public_key: &str) -> String {
    let subjects = Subjects::of_region(region.as_str());
    let publish = [subjects.usage(partition, agent.as_str())];
    let subscribe = [subjects.watermark(agent.as_str()), format!("{}.>", inbox_prefix(agent))];
    user(&format!("agent {agent} of region {region}"), public_key, &publish, &subscribe)
}

/// What the cell of a partition may do: own its streams, consume usage, publish watermarks and feeds. It may
/// not publish usage.
pub fn cell_user(region: &Region, partition: u32, public_key: &str) -> String {
    let subjects = Subjects::of_region(region.as_str());
    let mut publish = vec![
        subjects.watermark("*"),
        subjects.lifecycle("*"),
        subjects.alerts("*"),
        subjects.quarantine(),
        // Prices: a subject for each platform and fabric.
        subjects.quarantine().replace("quarantine.usage", "spot.>"),
        "$JS.API.INFO".to_owned(),
        "$JS.API.STREAM.NAMES".to_owned(),
    ];
    for stream in [subjects.usage_stream(partition), subjects.feed_stream()] {
        publish.extend([
            format!("$JS.API.STREAM.*.{stream}"),
            format!("$JS.API.STREAM.MSG.*.{stream}"),
            format!("$JS.API.DIRECT.GET.{stream}"),
            format!("$JS.API.CONSUMER.*.{stream}"),
            format!("$JS.API.CONSUMER.*.{stream}.>"),
            format!("$JS.API.CONSUMER.*.*.{stream}.>"),
            format!("$JS.ACK.{stream}.>"),
        ]);
    }
    let subscribe = ["_INBOX.>".to_owned()];
    user(&format!("cell of region {region}, partition {partition}"), public_key, &publish, &subscribe)
}

fn user(who: &str, public_key: &str, publish: &[String], subscribe: &[String]) -> String {
    let list = |subjects: &[String]| {
        let lines: Vec<_> = subjects.iter().map(|subject| format!("        \"{subject}\"")).collect();
        lines.join("\n")
    };
    format!(
        "# {who}\n{{\n  nkey: {public_key}\n  permissions: {{\n    publish: {{ allow: [\n{}\n    ] }}\n    \
         subscribe: {{ allow: [\n{}\n    ] }}\n  }}\n}}\n",
        list(publish),
        list(subscribe)
    )
}
