//! Quota decisions: a tree of depth 4 with 100,000 nodes, one thread.

use std::hint::black_box;

use hourglass_ledger::core::quotas::{Ask, QuotaCommand};
use hourglass_ledger::core::{Command, Detail, Outcome, Policy, State};
use hourglass_quota::hold::{Hold, HoldState, Holds};
use hourglass_quota::tree::{Items, Tree};
use hourglass_quota::{Bound, Class, HoldId, Limits, NodeName};
use hourglass_units::{Amount, Currency, GroupId, Instant, ProjectId, ResourceName, TenantId};

use crate::figure::{Figure, median, seconds};
use crate::workload::{answer, opens_at, run as run_command};

/// A region's customers: each with groups of groups of projects.
pub(crate) struct Shape {
    pub(crate) tenants: usize,
    pub(crate) groups: usize,
    pub(crate) subgroups: usize,
    pub(crate) projects: usize,
}

impl Shape {
    fn nodes(&self) -> usize {
        self.tenants * (1 + self.groups * (1 + self.subgroups * (1 + self.projects)))
    }

    /// How many projects of a tenant there are.
    pub(crate) fn projects_of_tenant(&self) -> usize {
        self.groups * self.subgroups * self.projects
    }

    /// What is above a project, from the group that it lies in up to its tenant, by their numbers in the
    /// whole tree.
    pub(crate) fn above(&self, project: usize) -> [usize; 3] {
        let subgroup = project / self.projects;
        let group = subgroup / self.subgroups;
        [subgroup, group, group / self.groups]
    }

    /// The names of a project and of all that is above it.
    pub(crate) fn path(&self, project: usize) -> Path {
        let [subgroup, group, of] = self.above(project);
        let (g, s, p) = (group % self.groups, subgroup % self.subgroups, project % self.projects);
        Path {
            tenant: tenant(of),
            group: format!("group-{g}").parse().expect("an id"),
            subgroup: format!("group-{g}-{s}").parse().expect("an id"),
            project: format!("project-{g}-{s}-{p}").parse().expect("an id"),
        }
    }
}

/// From a tenant down to a project.
pub(crate) struct Path {
    pub(crate) tenant: TenantId,
    pub(crate) group: GroupId,
    pub(crate) subgroup: GroupId,
    pub(crate) project: ProjectId,
}

/// The limit of each project.
pub(crate) const PROJECT_LIMIT: u64 = 64;
const RESOURCE: &str = "compute.instance.gpu.h100";
/// How long a hold lasts.
const TTL_MS: i64 = 60_000;
/// Holds that live at a time.
const LIVE: usize = 100_000;

/// Runs it.
pub(crate) fn run(quick: bool) -> Vec<Figure> {
    let (shape, decisions, repeats) = if quick {
        (Shape { tenants: 10, groups: 10, subgroups: 10, projects: 9 }, 300_000, 3)
    } else {
        (Shape { tenants: 100, groups: 10, subgroups: 10, projects: 9 }, 3_000_000, 5)
    };
    eprintln!("  {} nodes", shape.nodes());
    vec![tree(&shape, decisions, repeats), core(&shape, decisions / 3, repeats)]
}

pub(crate) fn resource() -> ResourceName {
    RESOURCE.parse().expect("a resource")
}

fn tenant(n: usize) -> TenantId {
    format!("tenant-{n}").parse().expect("an id")
}

/// Each project once, in an order that the processor cannot foresee.
fn projects(shape: &Shape) -> Vec<Path> {
    let all = 0..shape.tenants * shape.projects_of_tenant();
    let mut all: Vec<Path> = all.map(|n| shape.path(n)).collect();
    let mut seed = 7_u64;
    for at in (1..all.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        all.swap(at, usize::try_from(seed >> 33).expect("a number") % (at + 1));
    }
    all
}

/// What makes the tree, as commands.
pub(crate) fn set_up(shape: &Shape) -> Vec<Command> {
    let mut commands =
        vec![Command::OpenCell { region: "eu-north1".parse().expect("a region"), policy: Policy::default() }];
    let limits = |nominal| Some(Limits::nominal(Bound::AtMost(nominal)));
    let limit = |node, nominal| {
        Command::from(QuotaCommand::SetLimits {
            node,
            resource: resource(),
            class: Class::OnDemand,
            limits: limits(nominal),
        })
    };
    for t in 0..shape.tenants {
        let tenant = tenant(t);
        commands.push(Command::OpenTenant {
            tenant: tenant.clone(),
            currency: Currency::USD,
            display_name: String::new(),
        });
        commands.push(limit(NodeName::Tenant(tenant.clone()), 1 << 20));
        for g in 0..shape.groups {
            let above: GroupId = format!("group-{g}").parse().expect("an id");
            let group = |group: &GroupId, parent| {
                Command::from(QuotaCommand::CreateGroup {
                    tenant: tenant.clone(),
                    group: group.clone(),
                    parent,
                })
            };
            commands.push(group(&above, None));
            commands.push(limit(NodeName::Group(tenant.clone(), above.clone()), 1 << 18));
            for s in 0..shape.subgroups {
                let below: GroupId = format!("group-{g}-{s}").parse().expect("an id");
                commands.push(group(&below, Some(above.clone())));
                commands.push(limit(NodeName::Group(tenant.clone(), below), 1 << 16));
            }
        }
    }
    for Path { tenant, project, subgroup, .. } in projects(shape) {
        let group = Some(subgroup);
        let place = QuotaCommand::PlaceProject { tenant: tenant.clone(), project: project.clone(), group };
        commands.push(place.into());
        // Some of them are full after a few holds.
        commands.push(limit(NodeName::Project(tenant, project), PROJECT_LIMIT));
    }
    commands
}

/// The tree and its holds alone: look the project up by name, decide on four levels, take; then commit;
/// then, when it is among the oldest, release. Each of the three is a decision.
fn tree(shape: &Shape, decisions: usize, repeats: usize) -> Figure {
    let mut state = State::empty();
    for command in set_up(shape) {
        run_command(&mut state, &command, opens_at());
    }
    let mut tree: Tree = state.quotas().tree().clone();
    let projects = projects(shape);
    let resource = resource();
    let mut holds = Holds::default();
    let (mut next, mut oldest) = (1_u64, 1_u64);
    let (mut rates, mut ceilings) = (Vec::new(), Vec::new());
    let mut counters = vec![[0_u64; 4]; shape.nodes()];
    for repeat in 0..=repeats {
        let mut made = 0;
        let (took, ()) = seconds(|| {
            while made < decisions {
                let at = usize::try_from(next).expect("a number").wrapping_mul(7_919) % projects.len();
                let Path { tenant, project, .. } = projects.get(at).expect("a project");
                let id = HoldId(next);
                next += 1;
                made += 1;
                let node = tree.project(tenant, project).expect("a node");
                let key = tree.key(&resource, Class::OnDemand).expect("a key");
                let items: Items = [(key, 8)].into_iter().collect();
                if tree.fit(node, &items).is_err() {
                    continue;
                }
                let hold = Hold {
                    node,
                    items,
                    state: HoldState::Held,
                    expires_at: opens_at(),
                    burn: Amount::ZERO,
                    changed: id.0,
                };
                holds.take(&mut tree, id, hold).expect("a hold");
                holds.commit(&mut tree, id, id.0).expect("a commit");
                made += 1;
                while holds.len() > LIVE {
                    release(&mut holds, &mut tree, &mut oldest);
                    made += 1;
                }
            }
        });
        // What cannot be left out: four counters of a random project, read and written.
        let (bare, ()) = seconds(|| {
            for n in 0..made {
                let mut at = n.wrapping_mul(7_919) % counters.len();
                for level in 0..4 {
                    let counter = counters.get_mut(at).and_then(|node| node.get_mut(level)).expect("a node");
                    *counter = counter.wrapping_add(8);
                    at /= 10;
                }
            }
            black_box(&counters);
        });
        if repeat > 0 {
            rates.push(made as f64 / took);
            ceilings.push(made as f64 / bare);
        }
    }
    Figure {
        name: "quota decisions, tree",
        value: median(rates),
        unit: "decisions/s",
        ceiling: Some(median(ceilings)),
        target: ">= 1 M decisions/s",
    }
}

fn release(holds: &mut Holds, tree: &mut Tree, oldest: &mut u64) {
    loop {
        let id = HoldId(*oldest);
        *oldest += 1;
        if holds.get(id).is_some() {
            let ended = hourglass_quota::hold::Ended {
                state: HoldState::Released,
                // Long before the next ones: what ended is not what is measured.
                at: Instant::from_unix_ms(i64::try_from(id.0).expect("a time") * TTL_MS).expect("a time"),
                position: id.0,
                node: 0,
            };
            holds.end(tree, id, ended).expect("an end");
            return;
        }
    }
}

/// The whole core: decide, with its digests and idempotency keys, and apply.
fn core(shape: &Shape, decisions: usize, repeats: usize) -> Figure {
    let mut state = State::empty();
    for command in set_up(shape) {
        run_command(&mut state, &command, opens_at());
    }
    let projects = projects(shape);
    let mut live = std::collections::VecDeque::new();
    let (mut n, mut rates) = (0_usize, Vec::new());
    for repeat in 0..=repeats {
        let mut made = 0;
        let (took, ()) = seconds(|| {
            while made < decisions {
                n += 1;
                let at = n.wrapping_mul(7_919) % projects.len();
                let Path { tenant, project, .. } = projects.get(at).expect("a project");
                let items = vec![Ask { resource: resource(), class: Class::OnDemand, amount: 8 }];
                let (tenant, project) = (tenant.clone(), project.clone());
                let reserve = QuotaCommand::Reserve { tenant, project, items, ttl_ms: TTL_MS };
                made += 1;
                let Some(Outcome::Applied(taken)) = answer(&mut state, &reserve.into(), opens_at()) else {
                    continue;
                };
                let Detail::Hold { hold, .. } = taken.detail else { continue };
                let _committed = answer(&mut state, &QuotaCommand::Commit { hold }.into(), opens_at());
                live.push_back(hold);
                made += 1;
                if live.len() > LIVE {
                    let hold = live.pop_front().expect("a hold");
                    let _released = answer(&mut state, &QuotaCommand::Release { hold }.into(), opens_at());
                    made += 1;
                }
            }
        });
        if repeat > 0 {
            rates.push(made as f64 / took);
        }
    }
    Figure {
        name: "quota decisions, core",
        value: median(rates),
        unit: "decisions/s",
        ceiling: None,
        target: "-",
    }
}
