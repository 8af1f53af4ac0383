//! Processes that are killed while they write: nothing half-made is ever seen, and nothing finished is lost.
//!
//! The tests run this same program again as a child, with the store to write to in its environment.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod common;

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read as _, Write as _},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use common::{has, image, store};
use content_store::{
    CommitOptions, ContentStore, ContentStoreExt, Filters, GcOptions, LeaseOptions, LocalStore, Source,
    WriterOptions,
};
use layer_model::{Digest, ErrorKind, Silent};

const STORE: &str = "CRASH_STORE";
const ROLE: &str = "CRASH_ROLE";
const SEED: &str = "CRASH_SEED";

/// Numbers that look random, the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// The content of the blob with this number: so that whoever finds its ingest can finish it.
fn content(number: u64) -> Vec<u8> {
    let mut random = Random(number);
    let len = [0, 10, 4096, 70_000, 1_500_000][random.below(5) as usize] + random.below(100) as usize;
    let mut bytes = number.to_string().into_bytes();
    bytes.extend((0..len).map(|n| (n as u64 ^ number ^ (n as u64 >> 8)) as u8));
    bytes
}

fn child(role: &str, store: &LocalStore, seed: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "as_a_child", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(STORE, store.path())
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Not a test by itself: what a child does.
#[test]
fn as_a_child() {
    let Ok(path) = std::env::var(STORE) else { return };
    let store = LocalStore::open_or_create(path).unwrap();
    let seed: u64 = std::env::var(SEED).unwrap().parse().unwrap();
    println!();
    match std::env::var(ROLE).unwrap().as_str() {
        "write" => write_until_killed(&store, seed),
        "race" => race(&store),
        "hold" => {
            let mut writer = store.writer("held", &WriterOptions::new()).unwrap();
            writer.write_all(b"held").unwrap();
            writer.flush().unwrap();
            println!("held");
            thread::sleep(Duration::from_secs(600));
        }
        role => panic!("{role}"),
    }
}

/// Commits blobs and tags images, and says so after each.
fn write_until_killed(store: &LocalStore, seed: u64) {
    let mut random = Random(seed);
    for n in 0.. {
        let number = random.below(100_000);
        let bytes = content(number);
        let lease = store.lease(&format!("lease-{seed}-{n}"), &LeaseOptions::new()).unwrap();
        let options = CommitOptions::new().digest(Digest::sha256(&bytes)).label("number", number.to_string());
        let blob =
            lease.write_blob(&format!("blob-{number}"), Source::At(&bytes), &options, &Silent).unwrap();
        lease.keep();
        println!("blob {} {number}", blob.digest);
        let lease = store.lease(&format!("image-{seed}-{n}"), &LeaseOptions::new()).unwrap();
        let (manifest, _) = image(&lease, &format!("layer {number}"));
        let tag = format!("t{seed}-{n}");
        store.put_tag(&tag, &manifest).unwrap();
        println!("tag {} {tag}", manifest.digest());
    }
}

#[test]
fn two_hundred_kills_leave_no_half_blob_and_lose_nothing() {
    let (_root, store) = store();
    let mut random = Random(7);
    let (mut blobs, mut tags) = (HashMap::new(), HashMap::new());
    let mut interrupted = 0;
    let mut kills = 0;
    // On a slow disk a process that is killed early has committed little, so there may be more rounds.
    for round in 0.. {
        if kills >= 200 && blobs.len() >= 100 {
            break;
        }
        assert!(round < 5000, "{} blobs and {} tags were reported", blobs.len(), tags.len());
        let mut child = child("write", &store, round);
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        // From here on it works; the moment of death is anywhere in its first few commits.
        let mut line = String::new();
        while lines.read_line(&mut line).unwrap() > 0 && !line.contains("running 1 test") {}
        thread::sleep(Duration::from_micros(random.below(120_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        let mut said = String::new();
        lines.read_to_string(&mut said).unwrap();
        // The last line may have been cut by the kill.
        for line in said.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["blob", digest, number] => drop(blobs.insert(digest.to_owned(), number.to_owned())),
                ["tag", digest, tag] => drop(tags.insert(tag.to_owned(), digest.to_owned())),
                _ => {}
            }
        }
        interrupted += store.list_statuses(&Filters::all()).unwrap().len();
        if round % 20 == 19 {
            let report = store.check(&Default::default(), &Silent).unwrap();
            assert!(report.is_sound(), "{report:#?}");
            let resumed = finish_ingests(&store);
            assert_eq!(
                store.list_statuses(&Filters::all()).unwrap(),
                [],
                "{resumed} were resumed, others not"
            );
        }
        if round % 50 == 49 {
            store.gc(&GcOptions::new().grace(Duration::ZERO), &Silent).unwrap();
        }
    }
    for (digest, number) in &blobs {
        let info = store
            .info(&digest.parse().unwrap())
            .unwrap_or_else(|error| panic!("{digest} is lost: {error:?}"));
        assert_eq!(info.labels.get("number"), Some(number), "a label is lost");
    }
    for (tag, digest) in &tags {
        let image = store.image(tag, None).unwrap_or_else(|error| panic!("{tag} is lost: {error:?}"));
        assert_eq!(image.descriptor.digest().as_ref(), digest);
    }
    // And what is left over can be swept.
    store.gc(&GcOptions::new().grace(Duration::ZERO), &Silent).unwrap();
    let report = store.check(&Default::default(), &Silent).unwrap();
    assert!(report.problems.is_empty(), "{report:#?}");
    eprintln!(
        "{kills} kills: {} blobs and {} tags reported, all there; {interrupted} ingests interrupted, all finished",
        blobs.len(),
        tags.len()
    );
}

/// Goes on with every ingest that is there, from the content that its reference names.
fn finish_ingests(store: &LocalStore) -> usize {
    let all = store.list_statuses(&Filters::all()).unwrap();
    for status in &all {
        match status.reference.strip_prefix("blob-") {
            Some(number) => {
                let bytes = content(number.parse().unwrap());
                assert!(status.offset <= bytes.len() as u64);
                let options = CommitOptions::new().digest(Digest::sha256(&bytes)).size(bytes.len() as u64);
                store.write_blob(&status.reference, Source::At(&bytes), &options, &Silent).unwrap();
                assert!(has(store, &Digest::sha256(&bytes)));
            }
            None => store.abort(&status.reference).unwrap(),
        }
    }
    all.len()
}

#[test]
fn a_reference_is_free_when_its_writer_is_killed() {
    let (_root, store) = store();
    let mut child = child("hold", &store, 0);
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while lines.read_line(&mut line).unwrap() > 0 && !line.contains("held") {}
    let error = store.writer("held", &WriterOptions::new()).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Unavailable);
    assert!(error.to_string().contains("another process"), "{error}");
    // The collector leaves it alone, too.
    let all = GcOptions::new().abandoned_ingests(Some(Duration::ZERO));
    assert!(store.gc(&all, &Silent).unwrap().ingests.is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(store.writer("held", &WriterOptions::new()).unwrap().status().offset, 4);
}

fn race(store: &LocalStore) {
    for n in 0..50 {
        let bytes = content(n);
        let options = CommitOptions::new().digest(Digest::sha256(&bytes)).label("from", "a process");
        let done = store.write_blob(&format!("same-{n}"), Source::At(&bytes), &options, &Silent).unwrap();
        if !done.existed {
            println!("wrote {n}");
        }
    }
}

#[test]
fn processes_that_want_the_same_references_write_each_blob_once() {
    let (_root, store) = store();
    let children: Vec<_> = (0..3).map(|n| child("race", &store, n)).collect();
    let mut wrote = HashMap::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        for line in
            String::from_utf8(output.stdout).unwrap().lines().filter(|line| line.starts_with("wrote "))
        {
            *wrote.entry(line.to_owned()).or_insert(0) += 1;
        }
    }
    assert_eq!(wrote.len(), 50);
    assert!(wrote.values().all(|times| *times == 1), "{wrote:?}");
    for n in 0..50 {
        assert_eq!(store.info(&Digest::sha256(content(n))).unwrap().labels["from"], "a process");
    }
    assert_eq!(store.list_statuses(&Filters::all()).unwrap(), []);
    assert!(store.check(&Default::default(), &Silent).unwrap().problems.is_empty());
}
