//! A process that is killed while it applies leaves no half target, and nothing that stays.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{fs, process::Command, time::Duration};

use layer_apply::STAGING_PREFIX;
use support::{can, example, is_root};

#[test]
fn a_killed_apply_leaves_what_the_next_one_removes() {
    let program = example("apply_tars");
    if !can(
        "a_killed_apply_leaves_what_the_next_one_removes",
        "root and the example program",
        is_root() && program.exists(),
    ) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tar = folder.path().join("layer.tar");
    let layer: String = (0..3000).map(|n| format!("d{}/f{n}:\"{}\"; ", n % 100, "x".repeat(100))).collect();
    fs::write(&tar, support::tar(&layer)).unwrap();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    let apply = || {
        Command::new(&program).args(["overlay".as_ref(), out.as_os_str(), tar.as_os_str()]).spawn().unwrap()
    };
    let mut left = 0;
    for n in 0..20 {
        let mut child = apply();
        std::thread::sleep(Duration::from_millis(2 * n));
        child.kill().unwrap();
        child.wait().unwrap();
        for entry in fs::read_dir(&out).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name == "0" {
                assert_eq!(fs::read_dir(out.join("0")).unwrap().count(), 100, "whole or not there");
                fs::remove_dir_all(out.join("0")).unwrap();
            } else {
                assert!(name.starts_with(STAGING_PREFIX), "{name}");
                left += 1;
            }
        }
    }
    assert!(left > 0, "no kill came in time");
    assert!(apply().wait().unwrap().success());
    let names: Vec<_> = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["0"]);
}

#[test]
fn an_ordinary_user_gets_what_an_ordinary_user_can_have() {
    let program = example("apply_tars");
    if !can(
        "an_ordinary_user_gets_what_an_ordinary_user_can_have",
        "root and the example program",
        is_root() && program.exists(),
    ) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tar = folder.path().join("layer.tar");
    let second = folder.path().join("second.tar");
    // Directories that keep their owner out, before and after their children.
    let layer = "ro/ 0555 uid 1; ro/f:\"1\" 0444 uid 1 user.k=v; ro/sub/; ro/sub/g:\"2\" 0; none/ 0; late/h:\"3\"; late/ 0500; nox/ 0600; nox/sub/; nox/sub/f:\"6\"; nox/gone:\"7\"; su:\"x\" 04755; C null 1:3; x:\"1\" 0 user.k=v security.foo=bar";
    fs::write(&tar, support::tar(layer)).unwrap();
    fs::write(&second, support::tar("ro/more:\"4\"; none/in:\"5\"; wh:ro/sub; wh:late; nox/sub/g:\"8\"; wh:nox/gone; ro/ 0555 user.n=w")).unwrap();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    std::os::unix::fs::chown(&out, Some(65534), Some(65534)).unwrap();
    rustix::fs::chmod(folder.path(), rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    let target = out.join("flat");
    let result = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["flat".as_ref(), target.as_os_str(), tar.as_os_str(), second.as_os_str()])
        .output();
    let Ok(result) = result else {
        can("an_ordinary_user_gets_what_an_ordinary_user_can_have", "setpriv", false);
        return;
    };
    let said = String::from_utf8_lossy(&result.stderr).into_owned();
    assert!(result.status.success(), "{said}");
    assert!(said.contains("owner not set") && said.contains("null: device node not made"), "{said}");
    assert_eq!(
        support::listing(&target),
        support::sorted(
            "none/; none/in:\"5\"; nox/; nox/sub/; nox/sub/f:\"6\"; nox/sub/g:\"8\"; ro/; ro/f:\"1\"; ro/more:\"4\"; su:\"x\"; x:\"1\""
        )
    );
    use std::os::unix::fs::MetadataExt;
    let mode = |name: &str| support::meta(target.join(name)).mode() & 0o7777;
    assert_eq!((mode("ro"), mode("none"), mode("su"), mode("ro/f"), mode("x")), (0o555, 0, 0o4755, 0o444, 0));
    assert_eq!((mode("nox"), mode("nox/sub")), (0o600, 0o755));
    assert_eq!(support::xattr(&target.join("ro"), "user.n").as_deref(), Some(&b"w"[..]));
    assert_eq!(support::xattr(&target.join("ro/f"), "user.k").as_deref(), Some(&b"v"[..]));
}
