//! Layers that need their parents, whether they come before them or after.

use proptest::prelude::*;

/// What a case is about, the parents bottom first, the layer.
pub const LATE_PARENTS: &[(&str, &[&str], &str)] = &[
    (
        "metadata of directories",
        &["d/ 0700 mtime 5 user.k=v; d/e/ 0711 mtime 6; ./ 0750 mtime 7"],
        "d/e/f/g:\"1\"; x:\"2\"",
    ),
    ("the nearest parent counts", &["d/ 0700 mtime 5", "d/ 0711 mtime 6; d/e/ 0777 mtime 8"], "d/e/f:\"1\""),
    ("deleted directories", &["wh:d", "d/ 0711 mtime 6"], "d/f:\"1\""),
    (
        "directories of the layer that hide",
        &["d/ 0711 mtime 6; d/e/ 0700 mtime 4"],
        "wh:d; d/e/f:\"1\"; i/ 0755 mtime 3; opq:i; i/j/k:\"2\"",
    ),
    (
        "an opaque mark on a directory without an entry",
        &["d/ 0711 mtime 6; d/e/ 0700 mtime 4"],
        "opq:d; d/e/f:\"1\"",
    ),
    (
        "deletions that hide nothing",
        &["a:\"1\" mtime 4; d/x:\"1\"; d/ mtime 4"],
        "wh:no/such/thing; new/ mtime 5; wh:new/x; wh:d/x; wh:a; wh:b",
    ),
    ("an opaque mark on nothing", &["a:\"1\""], "opq:no/such"),
    ("hard links", &["s/t:\"data\" mtime 4; s/ mtime 5; l>s"], "h=s/t mtime 4; i=l/t mtime 4; j=h mtime 4"),
    ("an opaque root", &["top:\"1\"; d/low:\"2\"; d/ mtime 4"], "n:\"1\"; d/ mtime 8; d/f:\"2\"; opq:."),
    (
        "links of parents",
        &["usr/lib/x:\"1\"; usr/lib/ 0711 mtime 9; usr/ mtime 3; lib>usr/lib; ./ mtime 2"],
        "lib/a:\"1\"; lib/sub/b:\"2\"; usr/lib/sub/c:\"3\"; lib/sub/deep/d:\"4\"; wh:lib/x",
    ),
    (
        "absolute links of parents to what they do not have",
        &["lib>/new/lib; ./ mtime 2"],
        "lib/a:\"1\"; lib/s/b:\"2\"",
    ),
    (
        "links of parents to links",
        &["a>b; b>c/d; c/ mtime 4; c/d/ mtime 5; ./ mtime 2"],
        "a/x:\"1\"; b/y:\"2\"; c/d/z:\"3\"",
    ),
    (
        "deletions through links of parents",
        &["usr/lib/x:\"1\"; usr/lib/d/y:\"2\"; lib>usr/lib; ./ mtime 2; usr/ mtime 2; usr/lib/ mtime 2"],
        "wh:usr/lib/x; lib/x:\"new\"; lib/d/n:\"3\"; wh:lib/d/y; wh:lib/gone",
    ),
    ("no parents at all", &[], "d/e/f:\"1\"; wh:g; wh:h/i; opq:j"),
];

/// The parents with a time for the root, unless they have one: it would be that of the test.
pub fn with_root_time(parents: &[&str]) -> Vec<String> {
    let mut parents: Vec<String> = parents.iter().map(|parent| (*parent).to_owned()).collect();
    if let Some(bottom) = parents.first_mut().filter(|bottom| !bottom.contains("./")) {
        bottom.insert_str(0, "./ mtime 1; ");
    }
    parents
}

/// One entry of a random layer. Links are left out: through a link of a parent the order of entries counts, which
/// is lost when the parents come later.
pub fn entry() -> impl Strategy<Value = String> {
    let name = || prop::sample::select(vec!["a", "b", "a/x", "a/y", "a/x/p", "b/x", "b/x/q", "b/x/q/r"]);
    let mode = || prop::sample::select(vec!["0755", "0700", "0711"]);
    prop_oneof![
        4 => (name(), 0..9u32, 1..99u32).prop_map(|(n, c, t)| format!("{n}:\"{c}\" mtime {t}")),
        4 => (name(), mode(), 1..99u32).prop_map(|(n, m, t)| format!("{n}/ {m} mtime {t}")),
        3 => name().prop_map(|n| format!("wh:{n}")),
        2 => name().prop_map(|n| format!("opq:{n}")),
    ]
}
