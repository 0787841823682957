//! Doctor on stores damaged by hand.
#![expect(clippy::unwrap_used, reason = "a test may")]

use super::*;
use crate::catalog::records::{Change, VolumeRecord};
use crate::catalog::tests::{Fixture, create, open, run, snapshot};
use std::fs;
use std::path::Path;

/// Layers that are whatever the test says.
#[derive(Default)]
struct Look {
    wrong: Vec<LayerId>,
    faulted: Vec<LayerId>,
}

impl LayerLook for Look {
    fn check(&self, layer: LayerId, _sealed: bool) -> Vec<String> {
        if self.wrong.contains(&layer) { vec!["a record can't be read".to_owned()] } else { Vec::new() }
    }
    fn is_faulted(&self, layer: LayerId) -> Result<bool> {
        Ok(self.faulted.contains(&layer))
    }
    fn size(&self, _layer: LayerId) -> Result<u64> {
        Ok(1 << 40)
    }
}

fn furnished(path: &Path) -> Fixture {
    let fixture = open(path);
    for named in ["a", "b"] {
        let changes = create(&fixture.catalog.read(), named);
        run(&fixture, changes).unwrap();
    }
    let changes = snapshot(&fixture.catalog.read(), "monday");
    run(&fixture, changes).unwrap();
    fixture
}

/// Findings that are not as they should be, of one check.
fn bad(fixture: &Fixture, look: &Look, check: &str) -> Vec<Finding> {
    let mut findings = examine(&fixture.disk, &fixture.catalog, look).unwrap();
    for checked in ["labels", "serials", "maps", "faults", "orphans", "space", "disk"] {
        assert!(findings.iter().any(|finding| finding.check == checked), "{checked} is not told of");
    }
    findings.retain(|finding| finding.severity > Severity::Ok && finding.check == check);
    assert!(findings.iter().all(|finding| finding.hint.is_some()), "{findings:?}");
    findings
}

#[test]
fn a_sound_store_has_nothing_against_it() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = furnished(dir.path());
    for check in ["labels", "serials", "maps", "faults", "orphans"] {
        assert!(bad(&fixture, &Look::default(), check).is_empty());
    }
    assert!(!dir.path().join("doctor.scratch.tmp").exists());
}

#[test]
fn labels_are_compared_with_the_catalog() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = furnished(dir.path());
    let label = fs::read_dir(dir.path().join("volumes")).unwrap().next().unwrap().unwrap().path();
    let good = fs::read(&label).unwrap();
    fs::remove_file(&label).unwrap();
    assert!(bad(&fixture, &Look::default(), "labels")[0].message.contains("is missing"));
    fs::write(&label, &good[..40]).unwrap();
    assert!(bad(&fixture, &Look::default(), "labels")[0].message.contains("can't be believed"));
    fs::write(&label, &good).unwrap();
    assert!(bad(&fixture, &Look::default(), "labels").is_empty());
}

#[test]
fn two_things_with_one_serial_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = furnished(dir.path());
    let changes = create(&fixture.catalog.read(), "c");
    let serial = crate::catalog::tests::volume(&fixture.catalog.read(), "a").serial;
    let changes = changes.into_iter().map(|change| match change {
        Change::PutVolume(volume) => Change::PutVolume(VolumeRecord { serial, ..volume }),
        change => change,
    });
    run(&fixture, changes.collect()).unwrap();
    let found = bad(&fixture, &Look::default(), "serials");
    assert_eq!(found.len(), 1);
    assert!(found[0].message.contains("volume 'a'") && found[0].message.contains("volume 'c'"), "{found:?}");
}

#[test]
fn layers_are_named_with_those_who_need_them() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = furnished(dir.path());
    let head = fixture.catalog.read().live_volumes().next().unwrap().head.unwrap();
    let look = Look { wrong: vec![head], faulted: vec![head] };
    assert!(bad(&fixture, &look, "maps")[0].message.contains("volume 'a'"));
    assert!(bad(&fixture, &look, "faults")[0].message.contains("volume 'a'"));
    fs::remove_dir_all(fixture.disk.layer_dir(head)).unwrap();
    let missing = bad(&fixture, &Look::default(), "maps");
    assert!(missing.len() == 1 && missing[0].message.contains("is missing; it is needed by volume 'a'"), "{missing:?}");
}

#[test]
fn what_belongs_to_nothing_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = furnished(dir.path());
    fs::create_dir(dir.path().join("layers/stray")).unwrap();
    fs::write(dir.path().join("lost+found/old"), b"").unwrap();
    let found = bad(&fixture, &Look::default(), "orphans");
    assert_eq!(found.len(), 2, "{found:?}");
    // An import under way is no orphan.
    let import = fixture.catalog.begin_import(crate::ids::ImageId::new(), LayerId::new()).unwrap();
    fs::create_dir(fixture.disk.layer_dir(import.layer)).unwrap();
    assert_eq!(bad(&fixture, &Look::default(), "orphans").len(), 2);
    assert!(bad(&fixture, &Look::default(), "labels").is_empty());
}
