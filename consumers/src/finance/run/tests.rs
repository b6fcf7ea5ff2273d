//! A run is whole or it is not there, and never changes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use hourglass_units::{Amount, Month};

use super::super::columnar::Format;
use super::{Archive, LedgerPoint, MANIFEST, Manifest, RunError, Sealed, Subject};

fn subject() -> Subject {
    Subject::of_table("books/sample", "1", Format::Csv, "2026-01".parse::<Month>().unwrap())
}

fn at(position: u64) -> LedgerPoint {
    LedgerPoint {
        region: "eu".to_owned(),
        from: 1,
        position,
        hash: format!("{position:064x}"),
        time: "2026-02-04T00:00:00Z".to_owned(),
    }
}

fn write(archive: &Archive, position: u64, text: &str, is_final: bool) -> Sealed {
    let mut draft = archive.begin(subject()).unwrap();
    for name in ["b.csv", "a.csv"] {
        let mut file = draft.file(name).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        draft.keep(file, 1).unwrap();
    }
    let totals = BTreeMap::from([("Cost".to_owned(), Amount::parse("1.5").unwrap())]);
    draft.seal(is_final, at(position), BTreeMap::from([("USD".to_owned(), totals)])).unwrap()
}

fn runs(root: &Path) -> Vec<String> {
    let period = root.join("BILLING_PERIOD=2026-01");
    let mut names: Vec<String> = fs::read_dir(period)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn what_did_not_change_is_not_written_again() {
    let root = tempfile::tempdir().unwrap();
    let archive = Archive::open(root.path()).unwrap();
    let first = write(&archive, 7, "one", false);
    assert!(matches!(&first, Sealed::Written(run) if run.run.starts_with("000000000007-")));
    assert_eq!(write(&archive, 9, "one", false), Sealed::Unchanged(first.manifest().clone()));
    let second = write(&archive, 10, "two", false);
    let last = write(&archive, 11, "two", true);
    assert!(matches!((&second, &last), (Sealed::Written(_), Sealed::Written(_))));
    // What was there once and is so again is the newest run again.
    let back = write(&archive, 12, "one", false);
    assert!(matches!(&back, Sealed::Written(run) if run.content() == first.manifest().content()));
    assert_eq!(archive.newest(&subject()).unwrap().as_ref(), Some(back.manifest()));
    assert_eq!(runs(root.path()).len(), 4);
    let names: Vec<&str> = last.manifest().files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["a.csv", "b.csv"]);
    // SHA-256 as anyone else computes it.
    let sha256 = "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3";
    assert_eq!(last.manifest().files[0].sha256, sha256);
    let other = Subject { version: "2".to_owned(), ..subject() };
    assert_eq!(archive.newest(&other).unwrap(), None);
}

#[test]
fn the_same_content_has_the_same_bytes_and_the_same_name() {
    let bytes = |_: u8| {
        let root = tempfile::tempdir().unwrap();
        let archive = Archive::open(root.path()).unwrap();
        let run = write(&archive, 7, "one", true).manifest().run.clone();
        let place = root.path().join(format!("BILLING_PERIOD=2026-01/run={run}"));
        (run, fs::read(place.join(MANIFEST)).unwrap(), fs::read(place.join("a.csv")).unwrap())
    };
    assert_eq!(bytes(0), bytes(1));
}

#[test]
fn one_at_a_time_and_what_a_dead_one_left_behind_is_no_run() {
    let root = tempfile::tempdir().unwrap();
    let archive = Archive::open(root.path()).unwrap();
    assert!(matches!(Archive::open(root.path()), Err(RunError::Busy { .. })));
    let mut file = archive.begin(subject()).unwrap().file("a.csv").unwrap();
    file.write_all(b"half").unwrap();
    drop((file, archive));
    let archive = Archive::open(root.path()).unwrap();
    assert_eq!(archive.newest(&subject()).unwrap(), None);
    assert!(!root.path().join(".staging").exists());
    // A directory without a manifest is no run either.
    fs::create_dir_all(root.path().join("BILLING_PERIOD=2026-01/run=000000000099-ffff")).unwrap();
    let _sealed = write(&archive, 7, "one", true);
    assert_eq!(Archive::read(root.path()).newest_of_all().unwrap().len(), 1);
}

#[test]
fn a_manifest_that_was_changed_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let archive = Archive::open(root.path()).unwrap();
    let run = write(&archive, 7, "one", true).manifest().clone();
    assert_eq!(Manifest::from_bytes(&run.to_bytes()).unwrap(), run);
    let changed = String::from_utf8(run.to_bytes()).unwrap().replace("\"1.5\"", "\"1.6\"");
    let error = Manifest::from_bytes(changed.as_bytes()).unwrap_err();
    assert!(error.contains("it says other things than run"), "{error}");
    let path = root.path().join(format!("BILLING_PERIOD=2026-01/run={}", run.run)).join(MANIFEST);
    fs::write(path, changed).unwrap();
    assert!(matches!(archive.newest(&subject()), Err(RunError::Manifest { .. })));
}
