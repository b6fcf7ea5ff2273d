//! Which crate may depend on which, proved on the graph that Cargo builds from.
//!
//! The rules are the tables at the top. A crate of the workspace that is in no table is a broken
//! rule too: where a new crate stands is decided when it is born.
//!
//! Only normal edges count. What tests use is free, so that a test may look at a crate from above.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::run::{Failure, cargo};

/// One crate of the workspace, and what it may know.
struct Layer {
    name: &'static str,
    /// The crates of the workspace that it may reach, directly or not.
    may_use: &'static [&'static str],
    /// What it must not reach, however far away.
    never: &'static [&'static str],
}

/// Protocols of the outside world.
const NETWORK: [&str; 3] = ["axum", "tonic", "async-nats"];

/// Beyond the network: storage, waiting, logging and chance.
const IMPURE: [&str; 8] = ["axum", "tonic", "async-nats", "sqlx", "tokio", "tracing", "rand", "uuid"];

const LAYERS: [Layer; 16] = [
    Layer { name: "hourglass-units", may_use: &[], never: &IMPURE },
    Layer { name: "hourglass-proto", may_use: &[], never: &["axum", "async-nats", "sqlx"] },
    Layer { name: "hourglass-pricing", may_use: &["hourglass-units"], never: &IMPURE },
    Layer { name: "hourglass-quota", may_use: &["hourglass-units"], never: &IMPURE },
    Layer { name: "hourglass-capacity", may_use: &["hourglass-units"], never: &IMPURE },
    Layer { name: "hourglass-backtest", may_use: &["hourglass-units", "hourglass-capacity"], never: &IMPURE },
    Layer {
        name: "hourglass-compute",
        may_use: &["hourglass-units", "hourglass-proto"],
        never: &["axum", "async-nats", "sqlx"],
    },
    Layer {
        name: "hourglass-ledger",
        may_use: &[
            "hourglass-units",
            "hourglass-pricing",
            "hourglass-quota",
            "hourglass-capacity",
            "hourglass-proto",
        ],
        never: &NETWORK,
    },
    Layer {
        name: "hourglass-consumers",
        may_use: &[
            "hourglass-units",
            "hourglass-pricing",
            "hourglass-quota",
            "hourglass-capacity",
            "hourglass-proto",
            "hourglass-compute",
            "hourglass-ledger",
        ],
        never: &[],
    },
    Layer {
        name: "hourglass-agent",
        may_use: &["hourglass-units", "hourglass-proto"],
        never: &["axum", "tonic", "sqlx"],
    },
    Layer { name: "hourglass", may_use: &BELOW_THE_BINARY, never: &[] },
    Layer { name: "hourglass-bench", may_use: &USED_BY_BENCHMARKS, never: &[] },
    Layer { name: "hourglass-test-chance", may_use: &[], never: &IMPURE },
    Layer { name: "hourglass-test-history", may_use: &[], never: &IMPURE },
    Layer { name: "hourglass-test-servers", may_use: &[], never: &IMPURE },
    Layer { name: "xtask", may_use: &[], never: &IMPURE },
];

const BELOW_THE_BINARY: [&str; 10] = [
    "hourglass-units",
    "hourglass-pricing",
    "hourglass-quota",
    "hourglass-capacity",
    "hourglass-backtest",
    "hourglass-proto",
    "hourglass-compute",
    "hourglass-ledger",
    "hourglass-consumers",
    "hourglass-agent",
];

/// What the benchmarks measure, and the servers that they start.
const USED_BY_BENCHMARKS: [&str; 11] = [
    "hourglass-units",
    "hourglass-quota",
    "hourglass-pricing",
    "hourglass-capacity",
    "hourglass-backtest",
    "hourglass-proto",
    "hourglass-compute",
    "hourglass-ledger",
    "hourglass-consumers",
    "hourglass-test-chance",
    "hourglass-test-servers",
];

/// Crates that only the named ones may depend on directly.
const KEPT: [(&str, &[&str]); 1] = [
    // The benchmarks measure the raw ceiling of the database beside our figure.
    ("sqlx", &["hourglass-ledger", "hourglass-bench"]),
];

/// Features that a crate must not turn on anywhere below itself: crate, dependency, feature.
const SWITCHED_OFF: [(&str, &str, &str); 2] =
    [("hourglass-units", "chrono", "now"), ("hourglass-units", "chrono", "clock")];

/// Asks Cargo for the graphs and prints a sentence for every rule that does not hold.
pub(crate) fn prove() -> Result<(), Failure> {
    let workspace = ask(&["--workspace"])?;
    // Each layer by itself: in the workspace's one graph, a feature that a higher crate turns on
    // would count against the lower one.
    let mut trees = BTreeMap::new();
    for Layer { name, .. } in &LAYERS {
        if workspace.roots.contains(*name) {
            trees.insert(*name, ask(&["--package", name, "--all-features"])?);
        }
    }

    let broken = broken_rules(&workspace, &trees);
    for sentence in &broken {
        eprintln!("layering: {sentence}");
    }
    match broken.len() {
        0 => {
            eprintln!("layering: holds for {} crates", trees.len());
            Ok(())
        }
        1 => Err(Failure::Broken("1 rule of layering is broken".into())),
        many => Err(Failure::Broken(format!("{many} rules of layering are broken"))),
    }
}

fn ask(selection: &[&str]) -> Result<Tree, Failure> {
    let call = ["tree", "--edges", "normal", "--prefix", "depth", "--format", " {p}|{f}"];
    let text = cargo(call).args(selection).output()?;
    Tree::parse(&text)
        .map_err(|line| Failure::Broken(format!("cannot read this line of `cargo tree`: {line}")))
}

fn broken_rules(workspace: &Tree, trees: &BTreeMap<&str, Tree>) -> Vec<String> {
    let mut broken = Vec::new();
    let members = &workspace.roots;

    for member in members {
        if !LAYERS.iter().any(|layer| layer.name == member) {
            broken.push(format!("{member} has no place: add it to LAYERS, with the crates that it may use"));
        }
    }

    for layer in &LAYERS {
        let name = layer.name;
        let Some(tree) = trees.get(name) else {
            broken.push(format!("{name} is in LAYERS but not in the workspace: take it out"));
            continue;
        };
        for found in tree.packages.keys().filter(|found| *found != name) {
            if members.contains(found) && !layer.may_use.contains(&found.as_str()) {
                let allowed = match layer.may_use {
                    [] => "none of our own crates".to_owned(),
                    some => format!("only {}", some.join(", ")),
                };
                broken.push(format!("{name} may use {allowed}, but reaches {}", tree.path(name, found)));
            }
            if layer.never.contains(&found.as_str()) {
                broken.push(format!("{name} must not know {found}, but reaches {}", tree.path(name, found)));
            }
        }
    }

    for (dependency, keepers) in KEPT {
        for (dependent, _) in workspace.edges.iter().filter(|(_, to)| to == dependency) {
            if !keepers.contains(&dependent.as_str()) {
                let keepers = keepers.join(", ");
                broken.push(format!("{dependency} is for {keepers} alone, but {dependent} depends on it"));
            }
        }
    }

    for (name, dependency, feature) in SWITCHED_OFF {
        let features = trees.get(name).and_then(|tree| tree.packages.get(dependency));
        if features.is_some_and(|features| features.contains(feature)) {
            broken.push(format!("{name} needs {dependency} without its feature `{feature}`, which is on"));
        }
    }
    broken
}

/// What `cargo tree` said. Versions of one crate are not told apart: no rule depends on them.
#[derive(Debug, Default)]
struct Tree {
    roots: BTreeSet<String>,
    /// Each crate, with the features that are on.
    packages: BTreeMap<String, BTreeSet<String>>,
    /// Dependent, dependency.
    edges: BTreeSet<(String, String)>,
}

impl Tree {
    /// Reads lines such as `2 chrono v0.4.45|alloc,std (*)`: depth, crate, features; the star where
    /// the branch was printed before. A line that looks otherwise is handed back.
    fn parse(text: &str) -> Result<Self, &str> {
        let mut tree = Self::default();
        let mut ancestors: Vec<String> = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let (depth, name, features) = split(line).ok_or(line)?;
            if depth > ancestors.len() {
                return Err(line);
            }
            ancestors.truncate(depth);
            match ancestors.last() {
                Some(dependent) => {
                    tree.edges.insert((dependent.clone(), name.to_owned()));
                }
                None => {
                    tree.roots.insert(name.to_owned());
                }
            }
            let known = tree.packages.entry(name.to_owned()).or_default();
            known.extend(features.split(',').filter(|feature| !feature.is_empty()).map(str::to_owned));
            ancestors.push(name.to_owned());
        }
        Ok(tree)
    }

    /// A shortest way from one crate to another, written with arrows.
    fn path(&self, from: &str, to: &str) -> String {
        let mut ways = VecDeque::from([vec![from]]);
        let mut seen = BTreeSet::from([from]);
        while let Some(way) = ways.pop_front() {
            let here = way.last().copied().unwrap_or(from);
            if here == to {
                return way.join(" -> ");
            }
            for (_, next) in self.edges.iter().filter(|(dependent, _)| dependent == here) {
                if seen.insert(next) {
                    ways.push_back(way.iter().copied().chain([next.as_str()]).collect());
                }
            }
        }
        to.to_owned()
    }
}

fn split(line: &str) -> Option<(usize, &str, &str)> {
    let (depth, rest) = line.split_once(' ')?;
    let (package, features) = rest.rsplit_once('|')?;
    let name = package.split(' ').next()?;
    Some((depth.parse().ok()?, name, features.trim_end_matches(" (*)")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layers as they should be, one line a crate: each uses all that it may.
    const SOUND: [(&str, &str); 16] = [
        ("hourglass-units", "1 chrono v0.4.45|alloc,std"),
        ("hourglass-proto", "1 prost v0.14.6|derive,std"),
        ("hourglass-pricing", "1 hourglass-units v0.1.0 (here)|"),
        ("hourglass-quota", "1 hourglass-units v0.1.0 (here)|"),
        ("hourglass-capacity", "1 hourglass-units v0.1.0 (here)|"),
        ("hourglass-backtest", "1 hourglass-capacity v0.1.0 (here)|"),
        ("hourglass-compute", "1 hourglass-proto v0.1.0 (here)|"),
        ("hourglass-ledger", "1 hourglass-units v0.1.0 (here)|\n1 sqlx v0.9.0|sqlite\n2 sqlx-core v0.9.0|"),
        ("hourglass-consumers", "1 hourglass-ledger v0.1.0 (here)|testing (*)\n1 axum v0.8.1|"),
        ("hourglass-agent", "1 hourglass-proto v0.1.0 (here)|\n1 async-nats v0.51.0|"),
        ("hourglass", "1 hourglass-consumers v0.1.0 (here)| (*)\n1 hourglass-agent v0.1.0 (here)| (*)"),
        ("hourglass-bench", "1 sqlx v0.9.0|sqlite (*)"),
        ("hourglass-test-chance", ""),
        ("hourglass-test-history", "1 thiserror v2.0.17|"),
        ("hourglass-test-servers", "1 tempfile v3.27.0|"),
        ("xtask", ""),
    ];

    /// The sentences about [`SOUND`], after one crate was given these branches instead.
    fn sentences(name: &'static str, branches: &'static str) -> Vec<String> {
        let mut layers = BTreeMap::from(SOUND);
        layers.insert(name, branches);
        let text = |(name, branches): (&&str, &&str)| format!("0 {name} v0.1.0 (here)|\n{branches}\n");
        let workspace: String = layers.iter().map(text).collect();
        let trees = layers.iter().map(|layer| (*layer.0, Tree::parse(&text(layer)).unwrap())).collect();
        broken_rules(&Tree::parse(&workspace).unwrap(), &trees)
    }

    #[test]
    fn each_fault_is_found_and_named() {
        let check = |name, branches, expected: &[&str]| assert_eq!(sentences(name, branches), expected);

        check("xtask", "", &[]);
        check(
            "hourglass-pricing",
            "1 hourglass-units v0.1.0 (here)|\n1 serde v1.0.0|\n1 helper v1.0.0|\n2 hourglass-ledger v0.1.0 (here)|",
            &[
                "hourglass-pricing may use only hourglass-units, but reaches hourglass-pricing -> helper -> hourglass-ledger",
            ],
        );
        check(
            "hourglass-units",
            "1 hourglass-proto v0.1.0 (here)|",
            &[
                "hourglass-units may use none of our own crates, but reaches hourglass-units -> hourglass-proto",
            ],
        );
        check(
            "hourglass-ledger",
            "1 hourglass-proto v0.1.0 (here)|grpc\n2 tonic v0.14.9|codegen",
            &[
                "hourglass-ledger must not know tonic, but reaches hourglass-ledger -> hourglass-proto -> tonic",
            ],
        );
        check(
            "hourglass-consumers",
            "1 session-store v1.0.0|\n2 sqlx v0.9.0|",
            &["sqlx is for hourglass-ledger, hourglass-bench alone, but session-store depends on it"],
        );
        check(
            "hourglass-units",
            "1 chrono v0.4.45|now,std",
            &["hourglass-units needs chrono without its feature `now`, which is on"],
        );
        check(
            "hourglass-newcomer",
            "",
            &["hourglass-newcomer has no place: add it to LAYERS, with the crates that it may use"],
        );
    }

    #[test]
    fn a_tree_is_read_by_its_depths() {
        let tree = Tree::parse("0 a v1.0.0 (/a b|c)|\n1 b v2.0.0|x\n2 c v3.0.0|\n1 d v4.0.0 (proc-macro)| (*)\n\n0 b v2.0.1|y,z (*)\n").unwrap();
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        assert_eq!(tree.roots, BTreeSet::from(["a".to_owned(), "b".to_owned()]));
        assert_eq!(tree.edges, BTreeSet::from([pair("a", "b"), pair("a", "d"), pair("b", "c")]));
        assert_eq!(tree.packages["b"], BTreeSet::from(["x", "y", "z"].map(str::to_owned)));
        assert!(tree.packages["d"].is_empty());
    }

    #[test]
    fn a_line_that_is_no_branch_is_handed_back() {
        let check = |text, line| assert_eq!(Tree::parse(text).unwrap_err(), line);
        check("0 a v1.0.0|\n2 c v1.0.0|", "2 c v1.0.0|");
        check("a v1.0.0|", "a v1.0.0|");
        check("0 a v1.0.0", "0 a v1.0.0");
        check("warning: something", "warning: something");
    }
}
