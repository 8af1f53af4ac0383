//! Who may see `trusted.overlay.*`, and what happens to the others. Needs root.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{fs, process::Command, thread};

use layer_model::ErrorKind;
use overlay_dir::{Namespace, OverlayDir, OverlayDirOptions};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use support::can_run;

/// Whether this process is in the initial user namespace, as far as its id map tells.
fn in_initial_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn missing() -> Option<String> {
    let has = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    (!has).then(|| "no CAP_SYS_ADMIN".into())
}

#[test]
fn trusted_attributes_need_the_initial_user_namespace() {
    if !can_run("initial_namespace", missing()) {
        return;
    }
    let readable = Namespace::Trusted.check_readable();
    assert_eq!(readable.is_ok(), in_initial_namespace(), "{readable:?}");
    assert!(Namespace::User.check_readable().is_ok());
}

#[test]
fn root_in_a_user_namespace_does_not_see_a_layer_without_markers() {
    // The same binary again, as root of a namespace of its own.
    let this = std::env::current_exe().unwrap();
    let run = Command::new("unshare")
        .args(["--user", "--map-root-user"])
        .arg(this)
        .args(["--exact", "trusted_attributes_need_the_initial_user_namespace", "--nocapture"])
        .output();
    match run {
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains("running 1 test") => {
            assert!(output.status.success(), "{output:?}");
            assert!(!String::from_utf8_lossy(&output.stderr).contains("SKIP"), "{output:?}");
        }
        other => {
            can_run("user_namespace", Some(format!("no user namespaces here: {other:?}")));
        }
    }
}

#[test]
fn without_the_capability_a_trusted_layer_does_not_open() {
    if !can_run("capability", missing()) {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let open = |options| OverlayDir::open(temp.path(), options);
    // Capabilities belong to the thread.
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut sets = capabilities(None).unwrap();
            sets.effective.remove(CapabilitySet::SYS_ADMIN);
            set_capabilities(None, sets).unwrap();
            let error = open(OverlayDirOptions::default().namespace(Namespace::Trusted)).unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::PermissionDenied);
            assert_eq!(open(OverlayDirOptions::default()).unwrap().namespace(), Namespace::User);
        });
    });
    assert_eq!(open(OverlayDirOptions::default()).unwrap().namespace(), Namespace::Trusted);
}
