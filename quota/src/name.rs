//! How nodes, holds and leases are named.

use std::fmt;
use std::str::FromStr;

use hourglass_units::{GroupId, IdError, ProjectId, TenantId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A node of the tree, as people and programs name it: `tenants/acme`, `tenants/acme/groups/research`,
/// `tenants/acme/projects/train`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeName {
    /// A customer: a root.
    Tenant(TenantId),
    /// Projects, and groups of them.
    Group(TenantId, GroupId),
    /// Where things run.
    Project(TenantId, ProjectId),
}

impl NodeName {
    /// Whose it is.
    pub fn tenant(&self) -> &TenantId {
        match self {
            Self::Tenant(tenant) | Self::Group(tenant, _) | Self::Project(tenant, _) => tenant,
        }
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(tenant) => write!(f, "tenants/{tenant}"),
            Self::Group(tenant, group) => write!(f, "tenants/{tenant}/groups/{group}"),
            Self::Project(tenant, project) => write!(f, "tenants/{tenant}/projects/{project}"),
        }
    }
}

/// A text that names no node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeNameError {
    /// It has another form.
    #[error("a node is tenants/T, tenants/T/groups/G or tenants/T/projects/P")]
    Form,
    /// One of its ids is none.
    #[error(transparent)]
    Id(#[from] IdError),
}

impl FromStr for NodeName {
    type Err = NodeNameError;
    fn from_str(text: &str) -> Result<Self, NodeNameError> {
        let mut parts = text.split('/');
        let (Some("tenants"), Some(tenant)) = (parts.next(), parts.next()) else {
            return Err(NodeNameError::Form);
        };
        let tenant = TenantId::new(tenant)?;
        match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => Ok(Self::Tenant(tenant)),
            (Some("groups"), Some(group), None) => Ok(Self::Group(tenant, GroupId::new(group)?)),
            (Some("projects"), Some(project), None) => Ok(Self::Project(tenant, ProjectId::new(project)?)),
            _ => Err(NodeNameError::Form),
        }
    }
}

impl Serialize for NodeName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0.to_string())
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

number! {
    /// A hold: the position of the event that took it.
    HoldId
}
number! {
    /// A lease: the position of the event that granted it.
    LeaseId
}
number! {
    /// A request for more quota: the position of the event that recorded it.
    RequestId
}
