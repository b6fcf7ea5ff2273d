//! What is in quarantine: what is known of it, and how it is taken in again.

use hourglass_units::AgentId;

use super::Format;

/// The media type of a message, with the agent that the transport proved to have sent it.
pub(crate) fn content_type_of_agent(format: Format, agent: Option<&AgentId>) -> String {
    match agent {
        Some(agent) => format!("{}; agent={agent}", format.media_type()),
        None => format.media_type().to_owned(),
    }
}

/// The agent that sent a message, where its media type says so.
pub(crate) fn agent_of_content_type(content_type: &str) -> Option<AgentId> {
    let parameter = |part: &str| part.trim().strip_prefix("agent=").and_then(|agent| agent.parse().ok());
    content_type.split(';').skip(1).find_map(parameter)
}
