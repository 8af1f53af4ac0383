//! Blobs by digest: ingest, commit, labels, leases, garbage collection, in an OCI image layout.
