//! Every store of the crate keeps the laws.

use content_store::{ContentStore, LeaseOptions, LocalStore, MemoryStore, testing::store_conformance};

#[test]
fn the_store_in_memory_keeps_the_laws() {
    store_conformance(MemoryStore::new);
}

#[test]
fn the_store_in_a_directory_keeps_the_laws() {
    let root = tempfile::tempdir().unwrap();
    let mut number = 0;
    store_conformance(|| {
        number += 1;
        LocalStore::open_or_create(root.path().join(number.to_string())).unwrap()
    });
}

#[test]
fn a_store_seen_through_a_lease_or_a_pointer_keeps_the_laws() {
    let root = tempfile::tempdir().unwrap();
    let mut number = 0;
    store_conformance(|| {
        number += 1;
        let store = LocalStore::open_or_create(root.path().join(number.to_string())).unwrap();
        Box::new(store.lease("all", &LeaseOptions::new()).unwrap()) as Box<dyn ContentStore>
    });
}
