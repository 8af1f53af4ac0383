//! `cim`: layers of Windows from a blob to a record, and what is made of records.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
};

use cim_writer_abstraction::testing::{WcowLayer, archives::RawArchive};
use support::{layerkit, layerkit_fails, layerkit_ok};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn tar(&self, name: &str, bytes: &[u8]) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    /// A base layer and one on top of it, recorded.
    fn layers(&self, kind: &str) -> [PathBuf; 2] {
        let (base, child) = (self.path(&format!("{kind}-base")), self.path(&format!("{kind}-child")));
        let tar = self.tar("base.tar", &WcowLayer::base_with_utility_vm().tar());
        import(kind, &tar, &base, &[]);
        let tar = self.tar("child.tar", &WcowLayer::child().tar());
        import(kind, &tar, &child, &[&base]);
        [child, base]
    }
}

fn import(kind: &str, tar: &Path, out: &Path, parents: &[&Path]) -> serde_json::Value {
    let mut args =
        vec!["cim".into(), "import".into(), tar.to_owned(), out.to_owned(), "--kind".into(), kind.into()];
    for parent in parents {
        args.extend(["--parent".into(), parent.to_path_buf()]);
    }
    layerkit_ok(args)
}

fn view(layers: &[PathBuf]) -> String {
    let output = layerkit().args(["cim", "view"]).args(layers).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The lines of a view without which layer an entry is from.
fn without_sources(view: &str) -> Vec<&str> {
    view.lines().map(|line| line.split_once(",\"source\"").map_or(line, |(line, _)| line)).collect()
}

#[test]
fn layers_are_recorded_and_shown_together() {
    let place = Place::new();
    for kind in ["forked", "block"] {
        let layers = place.layers(kind);
        let names: Vec<_> =
            ["content", "files", "journal.jsonl", "layerkit-cim.json"].map(|n| layers[0].join(n)).into();
        assert!(names.iter().all(|name| name.exists()), "{names:?}");
        let shown = view(&layers);
        assert!(shown.lines().count() > 10, "{shown}");
        // A journal stands for the directory that it is in.
        assert_eq!(view(&[layers[0].join("journal.jsonl"), layers[1].clone()]), shown);
    }
    // Both kinds show the same, but for hives, which a fork inherits from a record that has none merged.
    let shown =
        |kind: &str| view(&[place.path(&format!("{kind}-child")), place.path(&format!("{kind}-base"))]);
    assert_eq!(without_sources(&shown("forked")), without_sources(&shown("block")));
}

#[test]
fn the_same_layer_gives_the_same_journal() {
    let (one, other) = (Place::new(), Place::new());
    let journal = |place: &Place| fs::read(place.layers("block")[1].join("journal.jsonl")).unwrap();
    assert_eq!(journal(&one), journal(&other));
}

#[test]
fn what_is_recorded_becomes_a_tar_again() {
    let place = Place::new();
    for kind in ["forked", "block"] {
        let layers = place.layers(kind);
        let tar = place.path(&format!("{kind}.tar"));
        let replay = |to: &str, layers: &[PathBuf]| {
            let mut args: Vec<PathBuf> = vec!["cim".into(), "replay".into()];
            args.extend_from_slice(layers);
            args.extend(["--to".into(), to.into(), "--output".into(), tar.clone()]);
            layerkit_ok(args)
        };
        // one layer
        replay("layer", &layers[1..]);
        let again = place.path(&format!("{kind}-again"));
        import(kind, &tar, &again, &[]);
        assert_eq!(view(&[again]), view(&layers[1..]), "{kind}");
        // all that both show: not before the hives are merged
        let mut args: Vec<PathBuf> =
            vec!["cim".into(), "replay".into(), layers[0].clone(), layers[1].clone()];
        args.extend(["--to".into(), "tar".into(), "--output".into(), place.path("no.tar")]);
        assert_eq!(layerkit_fails(args)["kind"], "FailedPrecondition");
        assert!(!place.path("no.tar").exists());
        let top = place.path(&format!("{kind}-top"));
        let changes =
            WcowLayer::new().dir("Files").file("Files/new", "n").remove("Files/Windows/System32/shared.dll");
        import(kind, &place.tar("top.tar", &changes.tar()), &top, &[&layers[1]]);
        let both = [top, layers[1].clone()];
        let made = replay("tar", &both);
        assert_eq!(made["mediaType"], "application/vnd.oci.image.layer.v1.tar");
        let flat = place.path(&format!("{kind}-flat"));
        import(kind, &tar, &flat, &[]);
        assert_eq!(without_sources(&view(&[flat])), without_sources(&view(&both)), "{kind}");
    }
}

#[test]
fn forked_layers_become_standard_cims_that_are_read_back() {
    let place = Place::new();
    let mut layers = place.layers("forked").to_vec();
    let base = layers.pop().unwrap();
    let out = place.path("cims");
    fs::create_dir(&out).unwrap();
    let args = [
        Path::new("cim"),
        Path::new("replay"),
        &base,
        Path::new("--to"),
        Path::new("cim"),
        Path::new("-o"),
        &out,
    ];
    let made = layerkit_ok(args);
    assert_eq!(made["images"], serde_json::json!(["1.cim"]));
    let read = layerkit_ok([Path::new("cim"), Path::new("read"), &out.join("1.cim")]);
    assert_eq!(read["version"], "2.0");
    let paths = |listing: &serde_json::Value| -> Vec<String> {
        let entries = listing["entries"].as_array().unwrap().iter();
        entries.map(|entry| entry["path"].as_str().unwrap().to_owned()).filter(|path| path != "\\").collect()
    };
    let mut expected: Vec<String> = view(&[base])
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter_map(|line: serde_json::Value| {
            (line["type"] != "stream").then(|| line["path"].as_str().unwrap().to_owned())
        })
        .collect();
    let mut found = paths(&read);
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    let content = layerkit().args(["cim", "read"]).arg(out.join("1.cim")).arg("layout").output().unwrap();
    assert_eq!(content.stdout, b"vhd-with-hives\n");
    // How block CIMs look inside is not public.
    let block = place.layers("block");
    let error = layerkit_fails([
        Path::new("cim"),
        Path::new("replay"),
        &block[1],
        Path::new("--to"),
        Path::new("cim"),
        Path::new("-o"),
        &out,
    ]);
    assert_eq!(error["kind"], "WrongForm");
}

#[test]
fn bad_layers_leave_nothing_and_name_the_entry() {
    let place = Place::new();
    let [child, base] = place.layers("block");
    let before = fs::read_dir(place.0.path()).unwrap().count();
    let cases: [(&str, Vec<u8>, &str, &str); 6] = [
        ("climbing", RawArchive::new().file("Files/../../x", "").finish(), "PathEscape", ".."),
        (
            "twice",
            RawArchive::new().dir("Files").file("Files/a", "").file("Files/A", "").finish(),
            "ConflictingEntries",
            "A",
        ),
        ("reserved", RawArchive::new().dir("Files").file("Files/a|b", "").finish(), "InvalidArchive", "a|b"),
        (
            "descriptor",
            RawArchive::new().with_records("Files", &[("MSWINDOWS.rawsd", "AAAA")]).finish(),
            "InvalidArchive",
            "Files",
        ),
        ("device", RawArchive::new().member(b'3', "Files", "", &[], b"").finish(), "InvalidArchive", "Files"),
        ("cut", WcowLayer::base().tar()[..1100].to_vec(), "Truncated", ""),
    ];
    let count = cases.len();
    for (name, tar, kind, entry) in cases {
        let (tar, out) = (place.tar(&format!("{name}.tar"), &tar), place.path(name));
        let error = layerkit_fails([
            Path::new("cim"),
            Path::new("import"),
            &tar,
            &out,
            Path::new("--kind"),
            Path::new("block"),
            Path::new("--parent"),
            &base,
        ]);
        assert_eq!(error["kind"], kind, "{name}: {error}");
        assert!(error["entry"].as_str().unwrap_or_default().contains(entry), "{name}: {error}");
        assert!(!out.exists(), "{name}");
    }
    assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), before + count, "nothing but the archives");

    let tar = place.path("child.tar");
    let attempt = |kind: &str, parents: &[&PathBuf]| {
        let mut args: Vec<PathBuf> = vec!["cim".into(), "import".into(), tar.clone(), place.path("no")];
        args.extend(["--kind".into(), kind.into()]);
        parents.iter().for_each(|parent| args.extend(["--parent".into(), (*parent).clone()]));
        layerkit_fails(args)["kind"].as_str().unwrap().to_owned()
    };
    // parents of another kind, in the wrong order, or not all of them; a target that is taken
    assert_eq!(attempt("forked", &[&base]), "WrongForm");
    assert_eq!(attempt("block", &[&base, &child]), "InvalidArgument");
    assert_eq!(attempt("block", &[&child]), "InvalidArgument");
    assert_eq!(attempt("block", &[&place.path("nothing")]), "NotFound");
    assert_eq!(attempt("block", &[]), "InvalidArchive", "deltas without parents");
    let taken = layerkit_fails([
        Path::new("cim"),
        Path::new("import"),
        &tar,
        &child,
        Path::new("--kind"),
        Path::new("block"),
    ]);
    assert_eq!(taken["kind"], "AlreadyExists");
}

#[test]
fn a_damaged_record_is_found_out() {
    let place = Place::new();
    let [_, base] = place.layers("block");
    let journal = base.join("journal.jsonl");
    let text = fs::read_to_string(&journal).unwrap();
    fs::write(&journal, text.replace("\"commit\"", "\"comit\"")).unwrap();
    assert!(layerkit_fails([Path::new("cim"), Path::new("view"), &base])["message"].as_str().is_some());
    fs::write(&journal, &text[..text.len() / 2]).unwrap();
    layerkit_fails([Path::new("cim"), Path::new("view"), &base]);
}

#[test]
fn what_takes_windows_says_so() {
    let place = Place::new();
    let [_, base] = place.layers("forked");
    let test = layerkit_fails([Path::new("cim"), Path::new("self-test"), &place.path("test")]);
    assert_eq!(test["kind"], "NotSupported");
    assert!(!place.path("test").exists());
    let replay = layerkit_fails([
        Path::new("cim"),
        Path::new("replay"),
        &base,
        Path::new("--to"),
        Path::new("windows"),
        Path::new("-o"),
        &place.path("w"),
    ]);
    assert_eq!(replay["kind"], "NotSupported");
}

#[test]
fn verified_layers_are_sealed_in_the_journal() {
    let place = Place::new();
    let tar = place.tar("base.tar", &WcowLayer::base().tar());
    let out = place.path("verified");
    let id = "00112233445566778899aabbccddeeff";
    layerkit_ok([
        "cim",
        "import",
        tar.to_str().unwrap(),
        out.to_str().unwrap(),
        "--kind",
        "block",
        "--verified",
        "--footer",
        id,
    ]);
    let journal = fs::read_to_string(out.join("journal.jsonl")).unwrap();
    let ops: Vec<_> = journal.lines().rev().take(4).map(|line| line.split('"').nth(3).unwrap()).collect();
    assert_eq!(ops, ["sidecar", "vhd_footer", "seal", "close"]);
}
