//! A kill at any moment leaves no half blob and no half layer, and the next run succeeds.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use support::{layerkit, layerkit_ok, snapshot};

const ROUNDS: u32 = 100;

/// A layer of some thousand small files and one larger one.
fn layer(path: &Path) {
    let mut tar = tar::Builder::new(fs::File::create(path).unwrap());
    let mut add = |name: String, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_600_000_000);
        tar.append_data(&mut header, name, content).unwrap();
    };
    for n in 0..3000 {
        add(format!("dir-{}/file-{n}", n % 37), format!("content of {n}").as_bytes());
    }
    add("large".into(), &vec![7; 8 << 20]);
    tar.finish().unwrap();
}

/// Starts the command, kills it after `delay`, and says whether it had ended by itself.
fn run_and_kill(args: &[&std::ffi::OsStr], delay: Duration) -> bool {
    let mut child = layerkit().args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(delay);
    let ended = child.try_wait().unwrap().is_some();
    child.kill().unwrap();
    child.wait().unwrap();
    ended
}

fn refs(args: &[std::ffi::OsString]) -> Vec<&std::ffi::OsStr> {
    args.iter().map(AsRef::as_ref).collect()
}

/// How long the command takes when it is left alone.
fn time_of(args: &[&std::ffi::OsStr]) -> Duration {
    let start = Instant::now();
    assert!(layerkit().args(args).stdout(Stdio::null()).status().unwrap().success());
    start.elapsed()
}

/// Moments spread over the whole run, in an order that looks random but is the same each time.
fn delays(whole: Duration) -> impl Iterator<Item = Duration> {
    (0..ROUNDS).map(move |n| whole * ((n * 61) % ROUNDS) / ROUNDS)
}

#[test]
fn a_killed_apply_leaves_a_whole_layer_or_none() {
    let scratch = tempfile::tempdir().unwrap();
    let blob = scratch.path().join("layer.tar");
    layer(&blob);
    let want_at = scratch.path().join("want");
    let args = |dest: &'static str| {
        ["apply", "--quiet", "--format", "overlay"]
            .map(Into::into)
            .into_iter()
            .chain([blob.clone().into_os_string(), scratch.path().join(dest).into_os_string()])
    };
    let collect = |dest| args(dest).collect::<Vec<std::ffi::OsString>>();
    let whole = time_of(&refs(&collect("want")));
    let want = snapshot(&want_at).without_root();

    let dest = scratch.path().join("dest");
    let args = collect("dest");
    for delay in delays(whole) {
        run_and_kill(&refs(&args), delay);
        if dest.exists() && fs::read_dir(&dest).unwrap().next().is_some() {
            want.assert_same(&snapshot(&dest).without_root());
            fs::remove_dir_all(&dest).unwrap();
        }
    }
    layerkit_ok(&args);
    want.assert_same(&snapshot(&dest).without_root());
    let left: Vec<_> = fs::read_dir(scratch.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "what killed runs left is gone after a good one: {left:?}");
}

#[test]
fn a_killed_put_leaves_a_whole_blob_or_an_ingest_that_resumes() {
    let scratch = tempfile::tempdir().unwrap();
    let blob = scratch.path().join("layer.tar");
    layer(&blob);
    let store = scratch.path().join("store");
    let args = |name: &str| {
        let store = scratch.path().join(name);
        let mut args: Vec<std::ffi::OsString> =
            ["store", "put", "--quiet", "--ref", "case"].map(Into::into).into();
        args.extend([blob.clone().into_os_string(), "--store".into(), store.into_os_string()]);
        args
    };
    let whole = time_of(&refs(&args("first")));
    let args = args("store");
    for delay in delays(whole) {
        run_and_kill(&refs(&args), delay);
        if store.join("oci-layout").exists() {
            let checked =
                layerkit_ok(["store".as_ref(), "check".as_ref(), "--store".as_ref(), store.as_os_str()]);
            assert_eq!(checked["ok"], true, "{checked}");
        }
        if let Ok(blobs) = fs::read_dir(store.join("blobs/sha256")) {
            for blob in blobs {
                fs::remove_file(blob.unwrap().path()).unwrap();
            }
        }
    }
    let put = layerkit_ok(&args);
    assert_eq!(put["size"], fs::metadata(&blob).unwrap().len());
    let checked = layerkit_ok(["store".as_ref(), "check".as_ref(), "--store".as_ref(), store.as_os_str()]);
    assert_eq!((&checked["ok"], &checked["blobs"]), (&true.into(), &1.into()), "{checked}");
}

#[test]
fn a_killed_unpack_leaves_whole_erofs_layers_or_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name).into_os_string();
    for (n, how) in [["--no-lower", "--walk"], ["--walk", "--walk"]].iter().enumerate() {
        let (blob, tree) = (scratch.path().join("layer.tar"), at(&format!("tree-{n}")));
        layer(&blob);
        layerkit_ok(["apply".into(), blob.into_os_string(), tree.clone()]);
        fs::write(Path::new(&tree).join("only-here"), format!("{n}")).unwrap();
        let mut args: Vec<std::ffi::OsString> = vec!["commit".into(), at("image"), "--upper".into(), tree];
        args.extend(["--tag", "case"].iter().chain(how).take(if n == 0 { 4 } else { 3 }).map(Into::into));
        if n > 0 {
            args.extend(["--lower".into(), at("tree-0")]);
        }
        layerkit_ok(&args);
    }
    let args = |dest: &str| -> Vec<std::ffi::OsString> {
        let mut args: Vec<std::ffi::OsString> = vec!["unpack".into(), at("image"), at(dest)];
        args.extend(["--quiet", "--format", "erofs", "--verity", "--merge"].map(Into::into));
        args
    };
    let whole = time_of(&refs(&args("want")));
    let images = |dest: &str| -> Vec<Vec<u8>> {
        let stack = fs::read(scratch.path().join(dest).join("stack.json")).unwrap();
        let stack: serde_json::Value = serde_json::from_slice(&stack).unwrap();
        let dirs = stack["layers"].as_array().unwrap().iter();
        let dirs = dirs.map(|layer| scratch.path().join(dest).join(layer["path"].as_str().unwrap()));
        dirs.map(|dir| fs::read(dir.join("layer.erofs")).unwrap()).collect()
    };
    let want = images("want");
    assert_eq!(want.len(), 2);
    let args = args("dest");
    let dest = scratch.path().join("dest");
    for delay in delays(whole) {
        run_and_kill(&refs(&args), delay);
        if dest.exists() {
            assert!(images("dest") == want);
            fs::remove_dir_all(&dest).unwrap();
        }
    }
    layerkit_ok(&args);
    assert!(images("dest") == want, "the same bytes as without the kills");
}
