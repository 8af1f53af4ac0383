//! What goes to standard output and standard error: text for people, or one JSON object.

use std::{
    io::{ErrorKind, Write},
    process::ExitCode,
};

use layerkit::{Error, LayerDescriptor, model::path::Printable};
use serde_json::{Value, json};

/// What a command has to say when it is done.
pub(crate) struct Outcome {
    /// The object that `--json` prints.
    pub(crate) json: Value,
    /// The text that is printed otherwise; ends in a line break unless it is empty.
    pub(crate) text: String,
    /// Whether standard output is taken by something else.
    to_stderr: bool,
    /// False where the command worked and what it looked at is bad (`store check`).
    pub(crate) good: bool,
}

impl Outcome {
    pub(crate) fn new(json: Value, text: impl Into<String>) -> Self {
        Self { json, text: text.into(), to_stderr: false, good: true }
    }

    /// Nothing to say.
    pub(crate) fn silent() -> Self {
        Self::new(json!({}), "")
    }

    /// The same outcome, for a command whose standard output is its data.
    pub(crate) fn on_standard_error(mut self) -> Self {
        self.to_stderr = true;
        self
    }

    /// Prints the outcome; a closed pipe is not an error of ours, a full disk is.
    pub(crate) fn print(self, as_json: bool) -> ExitCode {
        let mut out: Box<dyn Write> = match self.to_stderr {
            true => Box::new(std::io::stderr()),
            false => Box::new(std::io::stdout()),
        };
        let written =
            if as_json { writeln!(out, "{}", self.json) } else { out.write_all(self.text.as_bytes()) };
        match written.and_then(|()| out.flush()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                let _ = writeln!(std::io::stderr(), "layerkit: print the result: {error}");
                ExitCode::FAILURE
            }
            _ if self.good => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }
}

/// Prints a failure: one line on standard error, and with `--json` an object on standard output.
pub(crate) fn fail(error: &Error, as_json: bool) -> ExitCode {
    if as_json {
        let mut object = json!({ "kind": error.kind().name(), "message": error.chain() });
        if let Some(entry) = error.entry_path() {
            object["entry"] = json!(Printable(entry).to_string());
        }
        if let Some(offset) = error.byte_offset() {
            object["offset"] = json!(offset);
        }
        // Where nothing can be printed, the exit status still says it.
        let _ = writeln!(std::io::stdout(), "{}", json!({ "error": object }));
    }
    let _ = writeln!(std::io::stderr(), "layerkit: {}", error.chain().replace('\n', " "));
    ExitCode::FAILURE
}

/// A number of bytes as people read it.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A layer blob as a manifest names it.
pub(crate) fn descriptor_json(layer: &LayerDescriptor) -> Value {
    json!({
        "mediaType": layer.media_type.as_str(),
        "digest": layer.digest.as_str(),
        "size": layer.size,
        "diff_id": layer.diff_id.as_str(),
    })
}

/// The same for people.
pub(crate) fn descriptor_text(layer: &LayerDescriptor) -> String {
    let LayerDescriptor { media_type, digest, size, diff_id, .. } = layer;
    format!("mediaType  {media_type}\ndigest     {digest}\nsize       {size}\ndiff_id    {diff_id}\n")
}
