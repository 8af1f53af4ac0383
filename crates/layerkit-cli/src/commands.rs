//! One module for each verb: arguments in, library calls, an outcome out.

mod apply;
mod cim;
mod commit;
mod convert;
mod diff;
mod erofs;
mod image;
mod mount;
mod store;

use layerkit::Result;

use crate::{
    args::{Command, Global},
    output::Outcome,
    progress::Watch,
};

pub(crate) fn run(command: Command, global: &Global) -> Result<Outcome> {
    match command {
        Command::Unpack(args) => image::unpack(&args, global),
        Command::Inspect { image } => image::inspect(&image),
        Command::Mount(args) => mount::mount(&args),
        Command::Umount { mountpoint } => mount::umount(&mountpoint),
        Command::Apply(args) => apply::apply(&args, global),
        Command::Diff(args) => diff::diff(&args, global),
        Command::Commit(args) => commit::commit(&args, global),
        Command::Convert(args) => convert::convert(&args, global),
        Command::Cim(args) => cim::cim(args, global),
        Command::Erofs(args) => erofs::erofs(args, global),
        Command::Store(args) => store::store(args, global),
    }
}

/// Runs `work` under a progress bar, and adds the warnings to what it says.
fn watched(
    what: &'static str,
    global: &Global,
    total: Option<u64>,
    work: impl FnOnce(&Watch) -> Result<Outcome>,
) -> Result<Outcome> {
    let watch = Watch::new(what, global.quiet || global.json);
    if let Some(total) = total {
        watch.set_total(total);
    }
    let result = work(&watch);
    let warnings = watch.finish(global.quiet || global.json);
    result.map(|mut outcome| {
        outcome.json["warnings"] = warnings;
        outcome
    })
}
