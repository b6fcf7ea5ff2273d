//! Names of NATS subjects and streams: `hg.<region>.…`.
//!
//! An id becomes one token of a subject. Ids have letters, digits, `-`, `_` and `.`; a dot would part
//! tokens, so it is written `%2E`.

/// The subjects and streams of one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subjects {
    region: String,
}

/// Writes an id as one token.
pub fn token(id: &str) -> String {
    id.replace('.', "%2E")
}

/// The id that a token was written from.
pub fn id(token: &str) -> String {
    token.replace("%2E", ".")
}

impl Subjects {
    /// Those of a region.
    pub fn of_region(region: &str) -> Self {
        Self { region: token(region) }
    }

    /// Where an agent publishes its batches, and nobody else: the subject is its identity.
    pub fn usage(&self, partition: u32, agent: &str) -> String {
        format!("hg.{}.usage.{partition}.{}", self.region, token(agent))
    }

    /// The batches of all agents of a partition.
    pub fn usage_of_all(&self, partition: u32) -> String {
        format!("hg.{}.usage.{partition}.*", self.region)
    }

    /// The agent that a usage subject belongs to.
    pub fn agent_of<'a>(&self, subject: &'a str) -> Option<std::borrow::Cow<'a, str>> {
        let mut tokens =
            subject.strip_prefix("hg.")?.strip_prefix(&self.region)?.strip_prefix(".usage.")?.split('.');
        let (_partition, agent) = (tokens.next()?, tokens.next()?);
        let decoded = if agent.contains('%') { id(agent).into() } else { agent.into() };
        tokens.next().is_none().then_some(decoded)
    }

    /// Where an agent is told up to where it may free its log.
    pub fn watermark(&self, agent: &str) -> String {
        format!("hg.{}.watermark.{}", self.region, token(agent))
    }

    /// Notices and state changes of a tenant's instances.
    pub fn lifecycle(&self, tenant: &str) -> String {
        format!("hg.{}.lifecycle.{}", self.region, token(tenant))
    }

    /// What a tenant is to be warned of.
    pub fn alerts(&self, tenant: &str) -> String {
        format!("hg.{}.alerts.{}", self.region, token(tenant))
    }

    /// What a spot pool costs.
    pub fn spot(&self, platform: &str, fabric: &str) -> String {
        format!("hg.{}.spot.{}.{}", self.region, token(platform), token(fabric))
    }

    /// What came as usage and could not be used.
    pub fn quarantine(&self) -> String {
        format!("hg.{}.quarantine.usage", self.region)
    }

    /// Who speaks: the CloudEvents source of what the cell publishes.
    pub fn source(&self) -> String {
        format!("/hourglass/{}", self.region)
    }

    /// All that the cell tells others and that a stream keeps; watermarks are not kept.
    pub fn feed(&self) -> Vec<String> {
        ["lifecycle.*", "alerts.*", "quarantine.usage", "spot.*.*"]
            .map(|rest| format!("hg.{}.{rest}", self.region))
            .to_vec()
    }

    /// The stream that holds the usage of a partition.
    pub fn usage_stream(&self, partition: u32) -> String {
        format!("HG_{}_USAGE_{partition}", self.region)
    }

    /// The stream that holds what the cell tells others: life cycle, alerts, quarantine, prices.
    pub fn feed_stream(&self) -> String {
        format!("HG_{}_FEED", self.region)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_tells_its_agent() {
        let subjects = Subjects::of_region("eu.north-1");
        let subject = subjects.usage(0, "node.7_a");
        assert_eq!(subject, "hg.eu%2Enorth-1.usage.0.node%2E7_a");
        assert_eq!(subjects.agent_of(&subject).as_deref(), Some("node.7_a"));
        for other in ["hg.eu.usage.0.a", "hg.eu%2Enorth-1.usage.0", "hg.eu%2Enorth-1.usage.0.a.b", "x"] {
            assert_eq!(subjects.agent_of(other), None, "{other}");
        }
    }
}
