//! Limits, vectors, rules and listings of quota.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A whole number, or the word `unlimited`: no limit and a limit of zero are different things.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(example = json!(64))]
pub(crate) enum Bound {
    /// At most so much.
    AtMost(u64),
    /// `unlimited`.
    Word(String),
}

/// The limits of a node on a resource and class.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = QuotaLimits)]
pub(crate) struct Limits {
    /// What the node can always have.
    nominal: Bound,
    /// What it can have above that of what its siblings leave idle, of class `preemptible` alone; nothing
    /// where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    borrowing: Option<Bound>,
    /// What its siblings can have of what it leaves idle; all of it where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lending: Option<Bound>,
    /// Whether what is above the limit after it was lowered is stopped, newest first; it may run on where
    /// not.
    #[serde(default)]
    #[schema(required = false)]
    drain: bool,
}

/// An amount of a resource.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct QuotaItem {
    /// What is counted, such as `compute.instance.gpu.h100`.
    resource: String,
    /// How it is sold: `on_demand`, `preemptible` or `reserved`.
    class: String,
    /// How much, in the resource's own unit.
    amount: u64,
}

/// What has to stop.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StopTarget {
    /// An instance.
    Instance(String),
    /// What a compute service runs under a hold.
    Hold(u64),
}

/// When a request for more is granted without a person: all of it must be so.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct QuotaRules {
    /// The account is at least so old.
    #[schema(format = Int64, maximum = 4_294_967_295_u32)]
    account_days_min: u32,
    /// At least so many of its invoices are paid, and none waits for payment.
    #[schema(format = Int64, maximum = 4_294_967_295_u32)]
    paid_invoices_min: u32,
    /// At least this part of the limit is used, in percent.
    utilisation_min: String,
    /// The new limit is at most this part of the old one, in percent, such as `200`.
    growth_max: String,
    /// How much all tenants may have together. A resource that is not listed waits for a person.
    headroom: Vec<Headroom>,
}

/// How much of a resource all tenants may have together.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = QuotaHeadroom)]
pub(crate) struct Headroom {
    /// What is counted.
    resource: String,
    /// How it is sold.
    class: String,
    /// The most that the nominal limits of all tenants may be together.
    total_max: u64,
}

/// An instance as the compute API lists it.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListedInstance {
    /// Which.
    instance: String,
    /// Whether it takes up capacity: it is neither stopped nor gone.
    running: bool,
    /// GPUs that it has.
    gpus: u32,
}

/// A difference between what holds quota and what the compute API runs.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = QuotaDrift)]
pub(crate) struct Drift {
    /// Which instance.
    instance: String,
    /// Whose, where it is known.
    tenant: Option<String>,
    /// `unknown` (it runs and nobody registered it), `missing` (it holds quota and is not there), `stopped` (it
    /// holds quota and is stopped), `running` (it runs and holds none) or `gpus_differ`.
    kind: String,
    /// GPUs that the log counts.
    counted: u32,
    /// GPUs that the compute API lists.
    listed: u32,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::schema::assert_describes;

    fn written<T: serde::Serialize + serde::de::DeserializeOwned>(draft: Value) -> Value {
        serde_json::to_value(serde_json::from_value::<T>(draft).unwrap()).unwrap()
    }

    #[test]
    fn shapes_are_those_of_the_documents() {
        use hourglass_ledger::core::quotas::{self, Ask, Listed, Target};
        let limits = json!({"nominal": 8, "borrowing": "unlimited", "lending": 0, "drain": true});
        assert_describes::<Limits>(&written::<hourglass_quota::Limits>(limits));
        assert_describes::<Limits>(&written::<hourglass_quota::Limits>(json!({"nominal": "unlimited"})));
        let item = json!({"resource": "compute.instance.gpu.h100", "class": "on_demand", "amount": 8});
        assert_describes::<QuotaItem>(&written::<Ask>(item));
        for target in [json!({"instance": "i-1"}), json!({"hold": 7})] {
            assert_describes::<StopTarget>(&written::<Target>(target));
        }
        let rules = json!({"account_days_min": 30, "paid_invoices_min": 1, "utilisation_min": "80",
            "growth_max": "200", "headroom": [{"resource": "gpu", "class": "reserved", "total_max": 9}]});
        assert_describes::<QuotaRules>(&written::<hourglass_quota::request::Rules>(rules));
        let listed = json!({"instance": "i-1", "running": true, "gpus": 8});
        assert_describes::<ListedInstance>(&written::<Listed>(listed));
        let drift = json!({"instance": "i-1", "tenant": null, "kind": "unknown", "counted": 0, "listed": 8});
        assert_describes::<Drift>(&written::<quotas::Drift>(drift));
    }
}
