//! `docs/asyncapi.yaml` says what the code does.

use std::collections::BTreeSet;

use hourglass_proto::subjects::Subjects;
use yaml_rust2::{Yaml, YamlLoader};

use crate::feed::{DRIFT_LISTED_MAX, EVENT_TYPES, RECORDS_LISTED_MAX};

fn document() -> Yaml {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/asyncapi.yaml");
    let mut documents = YamlLoader::load_from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(documents.len(), 1);
    documents.remove(0)
}

/// Every value under a key, wherever it stands.
fn all<'a>(node: &'a Yaml, key: &str, found: &mut Vec<&'a Yaml>) {
    match node {
        Yaml::Hash(map) => map.iter().for_each(|(name, value)| {
            if name.as_str() == Some(key) {
                found.push(value);
            }
            all(value, key, found);
        }),
        Yaml::Array(items) => items.iter().for_each(|item| all(item, key, found)),
        _ => {}
    }
}

/// Whether a subject is of a pattern with `*` for one token.
fn matches(pattern: &str, subject: &str) -> bool {
    let (pattern, subject): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), subject.split('.').collect());
    pattern.len() == subject.len() && pattern.iter().zip(&subject).all(|(p, s)| *p == "*" || p == s)
}

#[test]
fn each_channel_is_a_subject_and_each_subject_a_channel() {
    let document = document();
    assert_eq!(document["asyncapi"].as_str(), Some("3.0.0"));
    let subjects = Subjects::of_region("eu.north");
    let channels = document["channels"].as_hash().unwrap();
    let mut addresses = BTreeSet::new();
    for (name, channel) in channels {
        let address = channel["address"].as_str().unwrap();
        let parameters = channel["parameters"].as_hash().unwrap();
        let mut filled = address.to_owned();
        for (parameter, _) in parameters {
            let parameter = parameter.as_str().unwrap();
            let value = match parameter {
                "region" => "eu%2Enorth",
                "partition" => "0",
                other => other,
            };
            assert!(filled.contains(&format!("{{{parameter}}}")), "{name:?}: {parameter}");
            filled = filled.replace(&format!("{{{parameter}}}"), value);
        }
        assert!(!filled.contains('{'), "{name:?} does not describe all of {address}");
        addresses.insert(filled);
    }
    let spot = subjects.spot("platform", "fabric");
    let feed = [subjects.lifecycle("tenant"), subjects.alerts("tenant"), subjects.quarantine(), spot];
    for subject in &feed {
        assert!(subjects.feed().iter().any(|pattern| matches(pattern, subject)), "{subject}");
    }
    let expected: BTreeSet<String> =
        feed.into_iter().chain([subjects.usage(0, "agent"), subjects.watermark("agent")]).collect();
    assert_eq!(addresses, expected);
}

#[test]
fn references_lead_somewhere_and_messages_are_those_that_are_sent() {
    let document = document();
    let mut references = Vec::new();
    all(&document, "$ref", &mut references);
    assert!(references.len() > 20);
    for reference in references {
        let path = reference.as_str().unwrap().strip_prefix("#/").unwrap();
        let target = path.split('/').fold(&document, |node, part| &node[part]);
        assert!(!target.is_badvalue(), "{path}");
    }
    let mut kinds = Vec::new();
    all(&document["components"]["messages"], "ce-type", &mut kinds);
    let kinds: BTreeSet<&str> = kinds.into_iter().filter_map(|kind| kind["const"].as_str()).collect();
    assert_eq!(kinds, EVENT_TYPES.into());
    let records = &document["components"]["messages"]["UsageQuarantined"]["payload"]["properties"]["records"];
    assert_eq!(records["maxItems"].as_i64(), i64::try_from(RECORDS_LISTED_MAX).ok());
    let drift = &document["components"]["messages"]["QuotaDrift"]["payload"]["properties"]["instances"];
    assert_eq!(drift["maxItems"].as_i64(), i64::try_from(DRIFT_LISTED_MAX).ok());
}
