//! Applies uncompressed layer tars, bottom first: `apply_tars flat TARGET TAR...` or
//! `apply_tars overlay FOLDER TAR...` (a layer directory for each: FOLDER/0, FOLDER/1, ...).

fn main() -> std::process::ExitCode {
    #[cfg(target_os = "linux")]
    if let Err(error) = linux::run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        eprintln!("{}", error.chain());
        return std::process::ExitCode::FAILURE;
    }
    std::process::ExitCode::SUCCESS
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{fs::File, io::BufReader, path::PathBuf, time::Instant};

    use layer_apply::{ApplyOptions, FlatApplier, OverlayApplier};
    use layer_model::{Applier, Base, Error, ErrorKind, IoContext, Monitor, Result, Stack, Warning};
    use layer_tar::{ReadOptions, TarSource};
    use overlay_dir::OverlayDir;

    struct Console;

    impl Monitor for Console {
        fn warn(&self, warning: &Warning<'_>) {
            eprintln!("warning: {warning}");
        }
    }

    pub(super) fn run(args: &[String]) -> Result<()> {
        let [form, target, tars @ ..] = args else {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "usage: apply_tars flat|overlay TARGET TAR...",
            ));
        };
        let options = ApplyOptions::new().apply_root_metadata(true).keep_trusted_xattrs(true);
        let target = PathBuf::from(target);
        let mut stack: Option<Stack<OverlayDir>> = None;
        for (n, tar) in tars.iter().enumerate() {
            let file = File::open(tar).during("open tar")?;
            let reader = BufReader::with_capacity(1 << 20, file);
            let mut source = TarSource::new(reader, ReadOptions::default(), &Console);
            let start = Instant::now();
            let (entries, bytes) = if form == "overlay" {
                let applier = OverlayApplier::<OverlayDir>::new(options.clone());
                let parents = Base::from_stack(stack.as_ref());
                let applied = applier.apply(&mut source, parents, target.join(n.to_string()), &Console)?;
                stack = Some(match stack {
                    Some(stack) => stack.with_nearest(applied.layer),
                    None => Stack::of(applied.layer),
                });
                (applied.entries, applied.bytes)
            } else {
                let applied = FlatApplier::new(options.clone()).apply(
                    &mut source,
                    Base::Unknown,
                    target.clone(),
                    &Console,
                )?;
                (applied.entries, applied.bytes)
            };
            println!("{tar}: {entries} entries, {bytes} bytes, {:.3} s", start.elapsed().as_secs_f64());
        }
        Ok(())
    }
}
