//! Wrappings that only the application knows: encryption, say.

use std::{
    fmt,
    io::{self, Read},
    sync::{Arc, Mutex, PoisonError},
};

use layer_model::{IoContext, MediaType, Result};

use super::stage::{READ_SIZE, Stage, StageReader, read_full, read_some};
use crate::{Chunk, chunk::Pool};

/// Turns blobs of one media type into another.
///
/// Processors are asked before the compressions known here, the last one added first, and again for what they
/// give, until there is a layer: but no more than eight times.
pub trait LayerProcessor: fmt::Debug + Send + Sync {
    /// The type that comes out, when this processor takes blobs of `media_type`.
    fn accepts(&self, media_type: &MediaType) -> Option<MediaType>;

    /// Starts to process `input`.
    ///
    /// # Errors
    /// Whatever prevents that.
    fn wrap(&self, input: Box<dyn Read + Send>) -> Result<Box<dyn ProcessorRead>>;
}

/// The output of a processor.
pub trait ProcessorRead: Read + Send {
    /// Says, after the last byte was read, whether they were right: the exit status of a program, a signature.
    /// An error fails the layer, however complete it looked.
    ///
    /// # Errors
    /// Whatever was found wrong at the end.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Reads a processor, and at its end everything that it left of its input: digests count that, too.
pub(super) struct ProcessorStage {
    output: Option<Box<dyn ProcessorRead>>,
    input: SharedInput,
    pool: Pool,
}

impl ProcessorStage {
    pub(super) fn start(processor: &dyn LayerProcessor, input: Box<dyn Stage>) -> Result<Self> {
        let input = SharedInput(Arc::new(Mutex::new(StageReader::new(input))));
        let output = Some(processor.wrap(Box::new(input.clone()))?);
        Ok(Self { output, input, pool: Pool::new(READ_SIZE) })
    }
}

impl Stage for ProcessorStage {
    fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        let Some(output) = &mut self.output else { return Ok(None) };
        let mut buffer = self.pool.take();
        let n = read_full(output, buffer.as_mut()).during("read from the layer processor")?;
        if n > 0 {
            return Ok(Some(buffer.freeze(n)));
        }
        if let Some(output) = self.output.take() {
            output.finish()?;
        }
        while read_some(&mut self.input, buffer.as_mut()).during("read blob")? > 0 {}
        Ok(None)
    }
}

/// The input of a processor, which may read it on a thread of its own.
#[derive(Clone)]
struct SharedInput(Arc<Mutex<StageReader>>);

impl Read for SharedInput {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).read(buf)
    }
}
