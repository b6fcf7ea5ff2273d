//! Capacity by hand.

use hourglass_capacity::nodes::{
    CapacityInterval, Inventory, NODE_GPUS_MAX, NODES_MAX, NodeState, Nodes, NodesError, POOL_GPUS_MAX,
};
use hourglass_units::{Instant, Interval, NodeId};

fn at(ms: i64) -> Instant {
    Instant::from_unix_ms(ms).unwrap()
}

fn during(start: i64, end: i64) -> Interval {
    Interval::new(at(start), at(end)).unwrap()
}

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn given(id: &str, gpus: u64, interval: Interval) -> CapacityInterval {
    CapacityInterval { id: id.parse().unwrap(), gpus, interval }
}

/// Four nodes of eight GPUs.
fn four() -> Nodes {
    let mut nodes = Nodes::default();
    nodes.register_number("h100", 3, 8).unwrap();
    nodes.register(node("odd"), 8).unwrap();
    nodes
}

#[test]
fn what_is_broken_taken_out_or_planned_does_not_count() {
    let mut nodes = four();
    nodes.set_state(&node("h100-1"), NodeState::Failed).unwrap();
    nodes.set_state(&node("h100-2"), NodeState::Cordoned).unwrap();
    nodes.set_state(&node("odd"), NodeState::Maintenance(during(100, 200))).unwrap();
    nodes.set_intervals(vec![given("a", 5, during(50, 150)), given("b", 7, during(120, 180))]).unwrap();
    let figures = [0, 50, 100, 120, 150, 180, 200].map(|ms| nodes.capacity().at(at(ms)));
    assert_eq!(figures, [16, 21, 13, 20, 15, 8, 16]);
    assert_eq!(nodes.least(during(0, 50)), 16);
    assert_eq!(nodes.least(during(60, 181)), 8);
    let inventory = nodes.inventory(at(120));
    assert_eq!(inventory, Inventory { available: 20, cordoned: 8, failed: 8, in_maintenance: 8 });
    assert_eq!((inventory.owned(), inventory.excluded()), (44, 24));

    nodes.set_state(&node("h100-1"), NodeState::Healthy).unwrap();
    nodes.remove(&node("odd")).unwrap();
    nodes.set_intervals(Vec::new()).unwrap();
    assert_eq!([0, 120, 200].map(|ms| nodes.capacity().at(at(ms))), [16; 3]);
}

#[test]
fn a_snapshot_holds_what_was_registered_and_nothing_that_contradicts_it() {
    let mut nodes = four();
    nodes.set_state(&node("odd"), NodeState::Maintenance(during(100, 200))).unwrap();
    nodes.set_intervals(vec![given("a", 5, during(50, 150))]).unwrap();
    let bytes = postcard::to_stdvec(&nodes).unwrap();
    assert_eq!(postcard::from_bytes::<Nodes>(&bytes).unwrap(), nodes);
    let text = serde_json::to_string(&nodes).unwrap();
    assert_eq!(serde_json::from_str::<Nodes>(&text).unwrap(), nodes);
    let too_large = text.replacen("\"gpus\":8", "\"gpus\":9999", 1);
    assert!(serde_json::from_str::<Nodes>(&too_large).is_err());
}

#[test]
fn limits_are_named_and_leave_everything_as_it_was() {
    let mut nodes = four();
    let before = nodes.clone();
    let is = |result: Result<(), NodesError>, expected: &str| {
        assert_eq!(result.unwrap_err().to_string(), expected)
    };
    let too_many = NODE_GPUS_MAX + 1;
    is(nodes.register(node("x"), 0), "node x has 0 GPUs: give between 1 and 1024");
    is(nodes.register(node("x"), too_many), "node x has 1025 GPUs: give between 1 and 1024");
    is(
        nodes.register(node("odd"), 8),
        "node odd is registered already: change its state, or remove it first",
    );
    is(nodes.set_state(&node("x"), NodeState::Failed), "there is no node x in this pool: register it first");
    is(nodes.register_number("more", NODES_MAX, 8), "a pool has at most 65536 nodes: make another pool");
    is(
        nodes.register_number("more", 1_000, 1_000),
        "the pool would have 1000032 GPUs: at most 1000000, make another pool",
    );
    is(
        nodes.set_intervals(vec![given("a", POOL_GPUS_MAX, during(0, 1))]),
        "the pool would have 1000032 GPUs: at most 1000000, make another pool",
    );
    let twice = vec![given("a", 1, during(0, 1)), given("a", 1, during(5, 6))];
    is(nodes.set_intervals(twice), "capacity interval a is listed twice: list each once");
    assert!(matches!(nodes.register_number("-", 2, 8), Err(NodesError::Name(_))));
    assert_eq!(nodes, before);

    // One after the other may have as much as would be too much at once.
    let turns = vec![given("a", 999_968, during(0, 5)), given("b", 999_968, during(5, 9))];
    nodes.set_intervals(turns).unwrap();
}
