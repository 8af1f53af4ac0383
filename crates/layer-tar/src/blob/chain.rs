//! From a media type to the stages that lead to a layer.

use std::sync::Arc;

use layer_model::{
    Error, ErrorKind, LayerPath, MediaType, Monitor, Result, Warning, WarningKind,
    media::{Compression, LayerType},
};

use super::{
    BlobOptions, LayerProcessor, decode,
    detect::{HEAD, detect},
    processor::ProcessorStage,
    stage::{DecodeStage, Peeked, Stage, StopSignal, Threaded},
};

/// How many wrappings a blob may have. Processors that turn two types into each other would go on for ever.
const MAX_WRAPPINGS: usize = 8;

/// How many threads the reading stage needs before it is worth one: those of the content come first.
const THREADS_WITH_READER: usize = 4;

/// What is to be done about a type.
#[derive(Debug)]
enum Unwrap {
    /// Nothing: it is a layer.
    Nothing,
    /// Compression; the type says which, the bytes decide.
    Decompress { declared: Compression, inner: MediaType },
    /// Something that a processor takes.
    Process { processor: Arc<dyn LayerProcessor>, inner: MediaType },
}

/// The way from a blob to a layer.
pub(super) struct Chain {
    pub(super) stage: Box<dyn Stage>,
    /// The type of the layer.
    pub(super) content_type: MediaType,
    /// Whether the blob is the layer: nothing had to be taken off.
    pub(super) is_bare: bool,
}

/// The stages from `stage`, which reads, to a layer.
pub(super) fn build(
    mut stage: Box<dyn Stage>,
    media_type: &MediaType,
    options: &BlobOptions,
    stop: &StopSignal,
    monitor: &dyn Monitor,
) -> Result<Chain> {
    let mut content_type = media_type.clone();
    let mut is_bare = true;
    for _ in 0..=MAX_WRAPPINGS {
        match next(&content_type, options)? {
            Unwrap::Nothing => return Ok(Chain { stage, content_type, is_bare }),
            Unwrap::Process { processor, inner } => {
                let input = run_ahead(stage, is_bare, options, stop);
                stage = Box::new(ProcessorStage::start(&*processor, input)?);
                (content_type, is_bare) = (inner, false);
            }
            Unwrap::Decompress { declared, inner } => {
                let peeked = Peeked::new(stage)?;
                let found = found(&peeked, declared, &content_type, options, monitor)?;
                stage = Box::new(peeked);
                if let Some(decoder) = decode::decoder(found, options.max_window)? {
                    let input = run_ahead(stage, is_bare, options, stop);
                    stage = Box::new(DecodeStage::new(input, decoder));
                    is_bare = false;
                }
                content_type = inner;
            }
        }
    }
    let message = format!("{media_type} has more than {MAX_WRAPPINGS} wrappings");
    Err(Error::new(ErrorKind::UnsupportedMediaType, message))
}

/// The stage that reads the blob gets a thread when there are enough.
fn run_ahead(stage: Box<dyn Stage>, reads: bool, options: &BlobOptions, stop: &StopSignal) -> Box<dyn Stage> {
    if !reads || options.jobs < THREADS_WITH_READER {
        stage
    } else {
        Box::new(Threaded::start_before_decoder(stage, stop.clone()))
    }
}

fn found(
    peeked: &Peeked,
    declared: Compression,
    media_type: &MediaType,
    options: &BlobOptions,
    monitor: &dyn Monitor,
) -> Result<Compression> {
    let head = peeked.first.as_deref().unwrap_or_default();
    let found = detect(&head[..head.len().min(HEAD)]);
    if declared != Compression::Detect && declared != found {
        let detail = format!("{media_type} holds {found:?}");
        if options.strict_media_type {
            return Err(Error::new(
                ErrorKind::InvalidArchive,
                format!("media type and bytes differ: {detail}"),
            ));
        }
        let warning = Warning::new(WarningKind::MediaTypeMismatch, LayerPath::ROOT);
        monitor.warn(&warning.detail(detail.as_bytes()));
    }
    Ok(found)
}

fn next(media_type: &MediaType, options: &BlobOptions) -> Result<Unwrap> {
    if media_type.is_plain_layer_tar() {
        return Ok(Unwrap::Nothing);
    }
    for processor in options.processors.iter().rev() {
        if let Some(inner) = processor.accepts(media_type) {
            return Ok(Unwrap::Process { processor: processor.clone(), inner });
        }
    }
    let unsupported = |why: String| Err(Error::new(ErrorKind::UnsupportedMediaType, why));
    match media_type.layer_type() {
        LayerType::Tar(Compression::None) | LayerType::Erofs(Compression::None) => Ok(Unwrap::Nothing),
        LayerType::Erofs(Compression::Gzip) if !options.erofs_gzip => {
            unsupported(format!("{media_type}: EROFS layers compressed by gzip are not enabled"))
        }
        LayerType::Tar(declared) | LayerType::Erofs(declared) => {
            // Docker's types have no suffix to take off.
            let inner = media_type.unwrapped().unwrap_or_else(MediaType::layer_tar);
            Ok(Unwrap::Decompress { declared, inner })
        }
        LayerType::Wrapped { suffix } => {
            unsupported(format!("no processor takes off {suffix:?} of {media_type}"))
        }
        _ => unsupported(format!("{media_type} is not the type of a layer")),
    }
}
