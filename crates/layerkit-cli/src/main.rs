//! The `layerkit` command: a thin shell over the library.

mod args;
mod commands;
mod output;
mod progress;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    match commands::run(cli.command, &cli.global) {
        Ok(outcome) => outcome.print(cli.global.json),
        Err(error) => output::fail(&error, cli.global.json),
    }
}
