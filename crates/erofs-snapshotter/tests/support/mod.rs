//! What the tests share.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "every test binary uses its own part")]

use layer_model::{ErrorKind, Result};

#[track_caller]
pub fn kind_of<T>(result: Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("this must fail"),
        Err(error) => error.kind().clone(),
    }
}

/// Whether a test that needs `what` can run; if not it says so, or fails where tests must not be skipped.
pub fn can(test: &str, what: &str, possible: bool) -> bool {
    if !possible {
        assert!(std::env::var_os("LAYERKIT_REQUIRE").is_none(), "{test} needs {what}");
        eprintln!("SKIP {test}: {what} is missing");
    }
    possible
}
