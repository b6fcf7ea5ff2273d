//! A disk that fills up during commits: a clear answer, nothing lost, nothing half-written.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::http::{open_account, recent, rfc3339, usage_batch};
use crate::support::{Server, hourglass};

/// A small file system in memory, unmounted when dropped.
pub(crate) struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    pub(crate) fn mount(size: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(directory.path())
            .output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(directory))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_refuses_clearly_and_loses_nothing() {
    let Some(disk) = Tmpfs::mount("3m") else {
        eprintln!("SKIPPED: no file system can be mounted here; run the tests as root to see a full disk");
        return;
    };
    let server = Server::up(disk.path(), &[]);
    open_account(&server);
    let end = recent();
    let start = end - 3_600_000;
    server.post("/v1/tenants/acme/instances/i-1:start", &json!({"at": rfc3339(start)}));

    // Names that do not compress, until the disk is full; the first record is billed.
    let mut acknowledged = 0_i64;
    let mut seed = 1_u64;
    let refused = (0..2_000_u64).find_map(|number| {
        let at = start + acknowledged * 1_000;
        let names: Vec<String> = (0..400)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                format!("x{seed:016x}{:016x}", seed.rotate_left(17))
            })
            .collect();
        let unknown = names.iter().map(|name| (name.as_str(), at, at + 1_000, 8));
        let records: Vec<_> = [("i-1", at, at + 1_000, 8)].into_iter().chain(unknown).collect();
        let bytes = usage_batch("agent-1", number * 1_000, &records);
        match server.try_post("/v1/usage:ingest", "application/x-protobuf", &bytes).unwrap() {
            (200, _) => {
                acknowledged += 1;
                None
            }
            refused => Some(refused),
        }
    });
    let (status, problem) = refused.expect("three megabytes fill up");
    assert_eq!((status, &problem["retryable"]), (503, &json!(true)), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("full"), "{problem}");
    assert!(acknowledged > 0);
    assert_eq!(server.get("/healthz").0, 200, "it still answers");
    server.kill();

    // With more room everything that was acknowledged is there, and the books hold.
    let grown = Command::new("mount").args(["-o", "remount,size=64m"]).arg(disk.path()).status().unwrap();
    assert!(grown.success());
    let report = hourglass(disk.path(), &["verify", "--json"]).json();
    assert_eq!(report["finding_count"], 0, "{report}");
    let server = Server::up(disk.path(), &[]);
    let (_, metering) = server.get("/v1/tenants/acme/metering");
    assert_eq!(metering["billed_ms"].as_i64(), Some(acknowledged * 1_000), "{metering}");
}
