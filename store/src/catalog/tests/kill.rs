//! A process that changes metadata as fast as it can is killed, again and again, at any moment of its life: nothing that it
//! acknowledged is lost, and every open succeeds.

use super::*;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

const DIR: &str = "OUTCROP_TEST_KILLED_STORE";

/// Not a test of its own: what the killed process does.
#[test]
fn victim() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let fixture = open(Path::new(&dir));
    loop {
        let volume = volume(&fixture.catalog.read(), "v");
        let mode = volume.mode + 1;
        run(&fixture, vec![Change::PutVolume(VolumeRecord { mode, ..volume })]).unwrap();
        println!("\nacknowledged {mode}");
    }
}

#[test]
fn an_acknowledged_change_survives_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = open(dir.path());
    let changes = create(&fixture.catalog.read(), "v");
    run(&fixture, changes).unwrap();
    let mut acknowledged = volume(&fixture.catalog.read(), "v").mode;
    drop(fixture);
    for round in 0..24_usize {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "catalog::tests::kill::victim"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // From none (it is killed while it opens) to a few.
        let wanted = round % 6;
        let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let mut seen = 0;
        if wanted > 0 {
            for line in lines {
                if let Some(mode) = line.unwrap().strip_prefix("acknowledged ") {
                    acknowledged = mode.parse().unwrap();
                    seen += 1;
                }
                if seen == wanted {
                    break;
                }
            }
            assert_eq!(seen, wanted, "round {round}: the victim ended by itself");
        } else {
            // Somewhere in its start; no round depends on where.
            std::thread::sleep(std::time::Duration::from_millis(round as u64));
        }
        victim.kill().unwrap();
        victim.wait().unwrap();
        let fixture = open(dir.path());
        assert!(!fixture.recovery.rebuilt && fixture.recovery.damage.is_empty(), "round {round}: {:?}", fixture.recovery);
        let mode = volume(&fixture.catalog.read(), "v").mode;
        assert!(mode >= acknowledged, "round {round}: {acknowledged} was acknowledged, {mode} is there");
        acknowledged = mode;
    }
}
