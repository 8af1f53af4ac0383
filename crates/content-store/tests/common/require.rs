//! Tests that need what not every machine has: they say why they do not run, or must run.

#![allow(dead_code, reason = "each test uses some of it")]

use std::path::PathBuf;

/// Says that a test is skipped, unless it has to run.
pub(crate) fn skip(test: &str, reason: &str) {
    assert!(std::env::var_os("LAYERKIT_REQUIRE").is_none_or(|v| v != "1"), "{test} has to run: {reason}");
    eprintln!("SKIP {test}: {reason}");
}

/// The directory that the peers live in, when they do.
pub(crate) fn peers(test: &str, programs: &[&str]) -> Option<PathBuf> {
    let Some(root) = std::env::var_os("LAYERKIT_PEERS").map(PathBuf::from) else {
        skip(test, "LAYERKIT_PEERS does not name a root with the peers in it");
        return None;
    };
    for program in programs {
        if !root.join("usr/bin").join(program).exists() {
            skip(test, &format!("{} has no {program}", root.display()));
            return None;
        }
    }
    if !rustix::process::geteuid().is_root() {
        skip(test, "chroot needs root");
        return None;
    }
    Some(root)
}
