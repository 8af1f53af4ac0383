//! The laws of a store, as checks that an implementation calls from its own tests.

use std::{
    io::{Cursor, Write as _},
    panic::{self, AssertUnwindSafe},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

use layer_model::{Digest, Digester, ErrorKind, Monitor, ReadAt, Result, Silent, digest::Algorithm};

use crate::{
    CommitOptions, ContentStore, ContentStoreExt, Filters, Hashing, LabelUpdate, Labels, Source,
    TrustedDigest, Writer, WriterOptions,
};

type Check = fn(&dyn ContentStore);

/// Runs all checks, each on a store of its own that `make` makes: empty, and with labels.
///
/// # Panics
/// When a law is broken; the message names the check and the law.
pub fn store_conformance<S: ContentStore>(mut make: impl FnMut() -> S) {
    let checks: &[(&str, Check)] = &[
        ("a fresh store is empty", fresh_store),
        ("bytes become a blob", commit),
        ("a reference has one writer", one_writer),
        ("an ingest resumes", resume),
        ("a copy resumes from any place", copy_resumes),
        ("a commit refuses what it does not expect", refused_commits),
        ("a blob that is there is not written again", already_there),
        ("an ingest can be cut", truncate),
        ("an ingest for another total starts over", other_total),
        ("no more is written than announced", beyond_total),
        ("an empty blob is a blob", empty_blob),
        ("labels change", labels),
        ("walks filter", walk),
        ("ingests are listed", statuses),
        ("what is missing is not found", missing),
        ("an ingest can be aborted", abort),
        ("digests of every algorithm", algorithms),
        ("a digest can be vouched for", trusted),
        ("impossible arguments are refused", arguments),
        ("a blob can be deleted", delete),
        ("a source that ends early is kept for later", short_source),
        ("writers of one reference take turns", turns),
        ("cancelled calls keep what they have", cancelled),
    ];
    for (name, check) in checks {
        let store = make();
        // Caught so that the name of the check belongs to what is said.
        if panic::catch_unwind(AssertUnwindSafe(|| check(&store))).is_err() {
            panic!("the store breaks this law: {name}");
        }
    }
}

fn kind<T>(result: Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("must fail, and did not"),
        Err(error) => error.kind().clone(),
    }
}

/// The kind of the cause of a refused commit.
fn refusal<T>(result: Result<T>) -> ErrorKind {
    let error = result.err().expect("a commit that must be refused");
    assert_eq!(error.kind(), &ErrorKind::FailedPrecondition, "{error:?}");
    let cause =
        std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<layer_model::Error>());
    cause.expect("the cause of a refused commit").kind().clone()
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 256) as u8).collect()
}

fn open(store: &dyn ContentStore, reference: &str) -> Box<dyn Writer> {
    store.writer(reference, &WriterOptions::new()).expect("open a writer")
}

fn put(store: &dyn ContentStore, content: &[u8], labels: &[(&str, &str)]) -> Digest {
    let mut options = CommitOptions::new();
    for (key, value) in labels {
        options = options.label(*key, *value);
    }
    let source = content.to_vec();
    store.write_blob("put", Source::At(&source), &options, &Silent).expect("write a blob").digest
}

fn content(store: &dyn ContentStore, digest: &Digest) -> Vec<u8> {
    let reader = store.reader(digest).expect("open a blob");
    let mut all = vec![0; reader.len().expect("size of a blob") as usize];
    reader.read_exact_at(&mut all, 0).expect("read a blob");
    assert_eq!(
        reader.read_at(&mut [0], all.len() as u64).expect("read at the end"),
        0,
        "nothing after the end"
    );
    all
}

fn walked(store: &dyn ContentStore, filters: &[&str]) -> Vec<Digest> {
    let mut found = Vec::new();
    let filters = Filters::parse(filters).expect("parse filters");
    let visit = &mut |info: crate::Info| {
        found.push(info.digest);
        Ok(())
    };
    store.walk(&filters, visit).expect("walk");
    found
}

fn fresh_store(store: &dyn ContentStore) {
    assert_eq!(walked(store, &[]), []);
    assert_eq!(store.list_statuses(&Filters::all()).expect("list"), []);
}

fn commit(store: &dyn ContentStore) {
    let all = bytes(256);
    let mut writer = open(store, "one");
    for piece in all.chunks(10) {
        writer.write_all(piece).expect("write");
    }
    assert_eq!(writer.status().offset, 256);
    assert_eq!(writer.digest().expect("digest"), Digest::sha256(&all));
    assert_eq!(kind(store.info(&Digest::sha256(&all))), ErrorKind::NotFound, "not before the commit");
    let options = CommitOptions::new().size(256).digest(Digest::sha256(&all)).label("k", "v");
    let committed = writer.commit(&options).expect("commit");
    assert_eq!((committed.size, committed.existed), (256, false));
    assert!(committed.warnings.is_empty(), "{:?}", committed.warnings);
    assert_eq!(content(store, &committed.digest), all);
    let info = store.info(&committed.digest).expect("info");
    assert_eq!((info.size, info.labels["k"].as_str()), (256, "v"));
    assert_eq!(kind(store.status("one")), ErrorKind::NotFound, "the ingest is gone");
    // Parts of a blob, as threads read them.
    let reader = store.reader(&committed.digest).expect("open a blob");
    let mut part = [0; 16];
    reader.read_exact_at(&mut part, 100).expect("read in the middle");
    assert_eq!(part, all[100..116]);
}

fn one_writer(store: &dyn ContentStore) {
    let first = open(store, "one");
    assert_eq!(kind(store.writer("one", &WriterOptions::new())), ErrorKind::Unavailable);
    let other = open(store, "other");
    drop(first);
    drop(open(store, "one"));
    drop(other);
}

fn resume(store: &dyn ContentStore) {
    let all = bytes(100_000);
    let mut writer = open(store, "one");
    writer.write_all(&all[..50_000]).expect("write");
    assert_eq!(writer.close().expect("close").offset, 50_000);
    let began = store.status("one").expect("status");
    assert_eq!((began.offset, began.reference.as_str()), (50_000, "one"));

    let mut writer = open(store, "one");
    assert_eq!(writer.status().offset, 50_000);
    assert_eq!(writer.status().started, began.started);
    assert_eq!(writer.digest().expect("digest"), Digest::sha256(&all[..50_000]), "the hash goes on, too");
    writer.write_all(&all[50_000..]).expect("write");
    let committed = writer.commit(&CommitOptions::new().digest(Digest::sha256(&all))).expect("commit");
    assert_eq!(content(store, &committed.digest), all);
}

fn copy_resumes(store: &dyn ContentStore) {
    let all = bytes(1000);
    for (n, done) in [0, 100, 500, 900, 1000].into_iter().enumerate() {
        for way in 0..3 {
            let digest = Digest::sha256(&all);
            let reference = format!("copy-{n}-{way}");
            let mut writer = open(store, &reference);
            writer.write_all(&all[..done]).expect("write");
            drop(writer);
            let writer = open(store, &reference);
            let (mut stream, mut cursor) = (&all[..], Cursor::new(&all));
            let source = match way {
                0 => Source::Stream(&mut stream),
                1 => Source::Seek(&mut cursor),
                _ => Source::At(&all),
            };
            let options = CommitOptions::new().size(1000).digest(digest.clone());
            let copied = store.copy(writer, source, &options, &Silent).expect("copy");
            assert_eq!(copied.existed, n + way > 0, "the second of the same bytes finds the first");
            assert_eq!(content(store, &digest), all);
            assert_eq!(kind(store.status(&reference)), ErrorKind::NotFound);
        }
    }
}

fn refused_commits(store: &dyn ContentStore) {
    let all = bytes(100);
    let mut writer = open(store, "one");
    writer.write_all(&all).expect("write");
    let refused = refusal(writer.commit(&CommitOptions::new().size(99)));
    assert_eq!(refused, ErrorKind::SizeMismatch { expected: 99, got: 100 });

    let writer = open(store, "one");
    assert_eq!(writer.status().offset, 100, "a refused commit keeps the bytes");
    let (expected, got) = (Digest::sha256(b"other"), Digest::sha256(&all));
    let refused = refusal(writer.commit(&CommitOptions::new().digest(expected.clone())));
    assert_eq!(refused, ErrorKind::DigestMismatch { expected: expected.clone(), got });
    assert_eq!(
        kind(store.info(&expected)),
        ErrorKind::NotFound,
        "nothing under a digest that is not its own"
    );

    let writer = store.writer("one", &WriterOptions::new().digest(expected)).expect("open");
    refusal(writer.commit(&CommitOptions::new()));
    let huge = CommitOptions::new().label("k", "v".repeat(5000));
    assert_eq!(kind(open(store, "one").commit(&huge)), ErrorKind::InvalidArgument);
    assert_eq!(walked(store, &[]), []);

    let writer = open(store, "one");
    assert_eq!(writer.status().offset, 100);
    writer.commit(&CommitOptions::new().size(100).digest(Digest::sha256(&all))).expect("commit");
}

fn already_there(store: &dyn ContentStore) {
    let all = bytes(100);
    let digest = put(store, &all, &[("first", "1"), ("both", "1")]);
    assert_eq!(
        kind(store.writer("again", &WriterOptions::new().digest(digest.clone()))),
        ErrorKind::AlreadyExists
    );
    assert_eq!(kind(store.status("again")), ErrorKind::NotFound);

    let mut writer = open(store, "again");
    writer.write_all(&all).expect("write");
    let error = writer.commit(&CommitOptions::new().label("second", "2")).expect_err("there already");
    assert_eq!(error.kind(), &ErrorKind::AlreadyExists);
    assert_eq!(error.entry_path(), Some(digest.as_str().as_bytes()), "the error names the blob");
    assert_eq!(kind(store.status("again")), ErrorKind::NotFound, "the ingest is gone");
    assert!(
        !store.info(&digest).expect("info").labels.contains_key("second"),
        "a commit changes no other blob"
    );

    // The helpers take it for success, and add what is missing.
    let options = CommitOptions::new().label("both", "2").label("second", "2");
    for options in [options.clone(), options.digest(digest.clone())] {
        let again = store.write_blob("again", Source::At(&all), &options, &Silent).expect("write a blob");
        assert_eq!((again.existed, again.size), (true, 100));
        let labels = store.info(&digest).expect("info").labels;
        let expected = [("both", "1"), ("first", "1"), ("second", "2")];
        assert_eq!(labels, expected.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect());
    }
    let wrong = CommitOptions::new().digest(digest).size(99);
    let error = store.write_blob("again", Source::At(&all), &wrong, &Silent).expect_err("another size");
    assert!(matches!(error.kind(), ErrorKind::SizeMismatch { .. }), "{error:?}");
}

fn truncate(store: &dyn ContentStore) {
    let mut writer = open(store, "one");
    writer.write_all(b"first data, thrown away").expect("write");
    assert_eq!(kind(writer.truncate(1000)), ErrorKind::InvalidArgument);
    writer.truncate(5).expect("cut");
    assert_eq!(writer.digest().expect("digest"), Digest::sha256(b"first"));
    writer.truncate(0).expect("cut");
    assert_eq!(writer.status().offset, 0);
    writer.write_all(b"second").expect("write");
    let committed = writer.commit(&CommitOptions::new()).expect("commit");
    assert_eq!(content(store, &committed.digest), b"second");
    assert_eq!(committed.digest, Digest::sha256(b"second"));
}

fn other_total(store: &dyn ContentStore) {
    let mut writer = store.writer("one", &WriterOptions::new().total(100)).expect("open");
    writer.write_all(&bytes(100)).expect("write");
    drop(writer);
    let mut writer = store.writer("one", &WriterOptions::new().total(5)).expect("open");
    assert_eq!(writer.status().offset, 0, "what was there is of no use");
    writer.write_all(b"hello").expect("write");
    let committed = writer.commit(&CommitOptions::new().digest(Digest::sha256(b"hello"))).expect("commit");
    assert_eq!(content(store, &committed.digest), b"hello", "exactly these bytes");

    // The total is remembered, and a commit before it is reached is refused.
    drop(store.writer("two", &WriterOptions::new().total(7)).expect("open"));
    let mut writer = open(store, "two");
    assert_eq!(writer.status().total, Some(7));
    writer.write_all(b"hello").expect("write");
    assert_eq!(
        refusal(writer.commit(&CommitOptions::new())),
        ErrorKind::SizeMismatch { expected: 7, got: 5 }
    );
}

fn beyond_total(store: &dyn ContentStore) {
    let mut writer = store.writer("one", &WriterOptions::new().total(5)).expect("open");
    writer.write_all(b"hel").expect("write");
    let error = layer_model::Error::io("write", writer.write_all(b"lo!").expect_err("too much"));
    assert_eq!(error.kind(), &ErrorKind::SizeMismatch { expected: 5, got: 6 });
    writer.write_all(b"lo").expect("write");
    writer.commit(&CommitOptions::new()).expect("commit");
}

fn empty_blob(store: &dyn ContentStore) {
    let committed = open(store, "one").commit(&CommitOptions::new().size(0)).expect("commit");
    assert_eq!((committed.size, &committed.digest), (0, &Digest::sha256(b"")));
    assert_eq!(content(store, &committed.digest), b"");
}

fn labels(store: &dyn ContentStore) {
    let digest = put(store, b"x", &[("a", "1"), ("empty", "")]);
    let get = || store.info(&digest).expect("info").labels;
    let labels = |pairs: &[(&str, &str)]| -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    assert_eq!(get(), labels(&[("a", "1")]), "an empty value is no label");
    let all = labels(&[("b", "2"), ("c.d/e", "3")]);
    let info = store.update(&digest, &LabelUpdate::Replace(all.clone())).expect("update");
    assert_eq!((&info.labels, get()), (&all, all.clone()));
    store.update(&digest, &LabelUpdate::set("b", "4")).expect("update");
    assert_eq!(get(), labels(&[("b", "4"), ("c.d/e", "3")]));
    store.update(&digest, &LabelUpdate::set("b", "")).expect("update");
    assert_eq!(get(), labels(&[("c.d/e", "3")]));
    assert_eq!(
        kind(store.update(&digest, &LabelUpdate::set("k", "v".repeat(4096)))),
        ErrorKind::InvalidArgument
    );
    assert_eq!(get(), labels(&[("c.d/e", "3")]), "a refused update changes nothing");

    // A blob that comes back has none of its old labels.
    store.delete(&digest).expect("delete");
    put(store, b"x", &[]);
    assert_eq!(get(), Labels::new());

    // Updates at the same time lose nothing.
    thread::scope(|scope| {
        for n in 0..8 {
            let digest = &digest;
            scope.spawn(move || {
                store.update(digest, &LabelUpdate::set(format!("k{n}"), "v")).expect("update")
            });
        }
    });
    assert_eq!(get().len(), 8);
}

fn walk(store: &dyn ContentStore) {
    let a = put(store, b"a", &[("k", "v"), ("complex label", "1")]);
    let b = put(store, b"bb", &[("k", "w")]);
    let c = put(store, b"ccc", &[]);
    let sorted = |mut all: Vec<Digest>| {
        all.sort();
        all
    };
    assert_eq!(walked(store, &[]), sorted(vec![a.clone(), b.clone(), c.clone()]), "in the order of digests");
    assert_eq!(walked(store, &[r#"labels."k"==v"#]), vec![a.clone()]);
    assert_eq!(walked(store, &["labels.k"]), sorted(vec![a.clone(), b.clone()]));
    assert_eq!(walked(store, &[r#"labels."complex label"==1"#]), vec![a.clone()]);
    assert_eq!(walked(store, &[&format!("digest~=^sha256:{}", &c.encoded()[..6])]), vec![c.clone()]);
    assert_eq!(walked(store, &["labels.k==w", "size==3"]), sorted(vec![b.clone(), c]));
    assert_eq!(walked(store, &["labels.k==v,labels.k==w"]), []);
    // The first error of the visitor ends the walk.
    let mut visits = 0;
    let stopped = store.walk(&Filters::all(), &mut |_| {
        visits += 1;
        Err(layer_model::Error::cancelled())
    });
    assert_eq!((kind(stopped), visits), (ErrorKind::Cancelled, 1));
    // The visitor may use the store.
    let deleting = &mut |info: crate::Info| store.delete(&info.digest);
    store.walk(&Filters::all(), deleting).expect("walk");
    assert_eq!(walked(store, &[]), []);
}

fn statuses(store: &dyn ContentStore) {
    let mut writer = store.writer("b", &WriterOptions::new().total(10)).expect("open");
    writer.write_all(b"123").expect("write");
    drop(writer);
    let _held = open(store, "a");
    let list = |filters: &[&str]| {
        let filters = Filters::parse(filters).expect("parse filters");
        let all = store.list_statuses(&filters).expect("list");
        all.into_iter().map(|status| (status.reference, status.offset, status.total)).collect::<Vec<_>>()
    };
    let (a, b) = (("a".to_owned(), 0, None), ("b".to_owned(), 3, Some(10)));
    assert_eq!(list(&[]), [a.clone(), b.clone()]);
    assert_eq!(list(&["ref==a"]), [a]);
    assert_eq!(list(&["ref~=[b-z]"]), [b]);
    assert_eq!(list(&["ref==c"]), []);
}

fn missing(store: &dyn ContentStore) {
    let digest = Digest::sha256(b"missing");
    assert_eq!(kind(store.info(&digest)), ErrorKind::NotFound);
    assert_eq!(kind(store.reader(&digest)), ErrorKind::NotFound);
    assert_eq!(kind(store.update(&digest, &LabelUpdate::set("k", "v"))), ErrorKind::NotFound);
    assert_eq!(kind(store.delete(&digest)), ErrorKind::NotFound);
    assert_eq!(kind(store.status("missing")), ErrorKind::NotFound);
    assert_eq!(kind(store.abort("missing")), ErrorKind::NotFound);
}

fn abort(store: &dyn ContentStore) {
    let mut writer = open(store, "one");
    writer.write_all(b"123").expect("write");
    drop(writer);
    store.abort("one").expect("abort");
    assert_eq!(kind(store.status("one")), ErrorKind::NotFound);
    assert_eq!(open(store, "one").status().offset, 0);

    let mut writer = open(store, "two");
    writer.write_all(b"123").expect("write");
    store.abort("two").expect("abort");
    assert_eq!(kind(store.status("two")), ErrorKind::NotFound);
    assert_eq!(kind(writer.sync()), ErrorKind::FailedPrecondition);
    assert_eq!(kind(writer.commit(&CommitOptions::new())), ErrorKind::FailedPrecondition);
    assert_eq!(walked(store, &[]), [], "nothing of it was committed");
    assert_eq!(open(store, "two").status().offset, 0, "the reference is free again");
}

fn algorithms(store: &dyn ContentStore) {
    let all = bytes(1000);
    for algorithm in Algorithm::ALL {
        let mut digester = Digester::new(algorithm);
        digester.update(&all);
        let digest = digester.finish();
        // The writer does not know yet; the commit asks for it.
        let mut writer = open(store, "one");
        writer.write_all(&all).expect("write");
        let committed = writer.commit(&CommitOptions::new().digest(digest.clone())).expect("commit");
        assert_eq!(committed.digest, digest);
        assert_eq!(content(store, &digest), all);
        store.delete(&digest).expect("delete");
        // The writer is asked for it.
        let mut writer = store.writer("two", &WriterOptions::new().algorithm(algorithm)).expect("open");
        writer.write_all(&all).expect("write");
        assert_eq!(writer.commit(&CommitOptions::new()).expect("commit").digest, digest);
    }
    assert_eq!(walked(store, &[]).len(), Algorithm::ALL.len(), "one content under each name");
    let unknown: Digest = "blake2b:abcdef".parse().expect("a digest");
    assert_eq!(kind(store.writer("one", &WriterOptions::new().digest(unknown))), ErrorKind::NotSupported);
}

fn trusted(store: &dyn ContentStore) {
    let all = bytes(1000);
    let vouched =
        |size| CommitOptions::new().trusted(TrustedDigest::computed_over(size, Digest::sha256(&all)));
    let lazy = WriterOptions::new().hashing(Hashing::AtCommit);
    let write = |reference: &str, options: &WriterOptions| {
        let mut writer = store.writer(reference, options).expect("open");
        writer.write_all(&all).expect("write");
        writer
    };
    let mut writer = write("lazy", &lazy);
    assert_eq!(writer.digest().expect("digest"), Digest::sha256(&all), "whoever asks is told");
    assert_eq!(refusal(writer.commit(&vouched(999))), ErrorKind::SizeMismatch { expected: 999, got: 1000 });
    let writer = store.writer("lazy", &lazy).expect("open");
    assert_eq!(writer.commit(&vouched(1000)).expect("commit").digest, Digest::sha256(&all));
    store.delete(&Digest::sha256(&all)).expect("delete");
    // Without anybody to vouch, it is hashed.
    assert_eq!(
        write("hashed", &lazy).commit(&CommitOptions::new()).expect("commit").digest,
        Digest::sha256(&all)
    );
    store.delete(&Digest::sha256(&all)).expect("delete");
    // Where the store did hash, it does not believe another.
    let other = CommitOptions::new().trusted(TrustedDigest::computed_over(1000, Digest::sha256(b"other")));
    let refused = refusal(write("checked", &WriterOptions::new()).commit(&other));
    assert!(matches!(refused, ErrorKind::DigestMismatch { .. }), "{refused:?}");
    // What is vouched for is still checked against what is expected.
    let wrong = vouched(1000).digest(Digest::sha256(b"other"));
    assert!(matches!(refusal(write("expected", &lazy).commit(&wrong)), ErrorKind::DigestMismatch { .. }));
    assert_eq!(walked(store, &[]), []);
}

fn arguments(store: &dyn ContentStore) {
    assert_eq!(kind(store.writer("", &WriterOptions::new())), ErrorKind::InvalidArgument);
    assert_eq!(kind(store.writer(&"r".repeat(4097), &WriterOptions::new())), ErrorKind::InvalidArgument);
    // A reference is any other text, and never a path.
    for reference in ["../../etc/passwd", "a/b", "\0", "ä\n", &"r".repeat(4096)] {
        let mut writer = open(store, reference);
        writer.write_all(b"x").expect("write");
        drop(writer);
        assert_eq!(store.status(reference).expect("status").reference, reference);
        store.abort(reference).expect("abort");
    }
}

fn delete(store: &dyn ContentStore) {
    let digest = put(store, b"x", &[("k", "v")]);
    let reader = store.reader(&digest).expect("open");
    store.delete(&digest).expect("delete");
    assert_eq!(kind(store.info(&digest)), ErrorKind::NotFound);
    let mut byte = [0];
    reader.read_exact_at(&mut byte, 0).expect("a reader that is open keeps reading");
    assert_eq!(&byte, b"x");
}

fn short_source(store: &dyn ContentStore) {
    let all = bytes(100);
    let options = CommitOptions::new().size(100).digest(Digest::sha256(&all));
    let mut short = &all[..40];
    let error =
        store.write_blob("one", Source::Stream(&mut short), &options, &Silent).expect_err("too short");
    assert_eq!((error.kind(), error.byte_offset()), (&ErrorKind::Truncated, Some(40)));
    assert_eq!(store.status("one").expect("status").offset, 40);
    // A source that has not even what is there already.
    let mut shorter = &all[..10];
    let error =
        store.write_blob("one", Source::Stream(&mut shorter), &options, &Silent).expect_err("shorter");
    assert_eq!(error.kind(), &ErrorKind::Truncated);
    store.write_blob("one", Source::At(&all), &options, &Silent).expect("the rest");
    // A source that goes on.
    let long = bytes(101);
    let error = store.write_blob("two", Source::At(&long), &CommitOptions::new().size(100), &Silent);
    assert_eq!(kind(error), ErrorKind::SizeMismatch { expected: 100, got: 101 });
}

fn turns(store: &dyn ContentStore) {
    // Many want the same blob under the same reference: each gets it, one writes it.
    let all = bytes(300_000);
    let (written, existed) = (AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let options = CommitOptions::new().digest(Digest::sha256(&all)).size(300_000);
                let done =
                    store.write_blob("same", Source::At(&all), &options, &Silent).expect("write a blob");
                let counter = if done.existed { &existed } else { &written };
                counter.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    assert_eq!((written.into_inner(), existed.into_inner()), (1, 7));
    assert_eq!(content(store, &Digest::sha256(&all)), all);
}

fn cancelled(store: &dyn ContentStore) {
    /// Stops after the first bytes.
    struct Stop(AtomicBool);
    impl Monitor for Stop {
        fn bytes(&self, _: u64) {
            self.0.store(true, Ordering::Relaxed);
        }

        fn should_stop(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }
    let all = bytes(3_000_000);
    let stop = Stop(AtomicBool::new(false));
    let result = store.write_blob("one", Source::At(&all), &CommitOptions::new(), &stop);
    assert_eq!(kind(result), ErrorKind::Cancelled);
    let kept = store.status("one").expect("status").offset;
    assert!(kept > 0 && kept < all.len() as u64, "{kept} bytes are kept");
    // Waiting for a reference ends, too.
    let _held = open(store, "held");
    assert_eq!(kind(store.open_writer("held", &WriterOptions::new(), &stop)), ErrorKind::Cancelled);
    store.write_blob("one", Source::At(&all), &CommitOptions::new(), &Silent).expect("the rest");
    assert_eq!(content(store, &Digest::sha256(&all)), all);
}
