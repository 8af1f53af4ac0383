//! The `layerkit` command.
fn main() {}
