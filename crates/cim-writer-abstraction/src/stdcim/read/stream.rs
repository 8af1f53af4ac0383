//! Streams: main and alternate ones, in their three forms.

use std::{fmt, io};

use layer_model::{ReadAt, Result};

use super::{
    super::raw::{self, PeImage, PeImageMapping, StreamRecord},
    regions::{Object, Regions},
};

/// The bytes of one stream, to be read at any position.
pub struct Stream {
    len: u64,
    form: Form,
}

enum Form {
    Bytes(Object),
    /// All zero, or nothing at all.
    Zeros,
    /// An executable, as it is laid out in memory.
    Image {
        data: Object,
        mappings: Box<[PeImageMapping]>,
    },
}

impl Stream {
    /// The stream that `record` describes; no directory's.
    pub(super) fn open(regions: &Regions, record: &StreamRecord) -> Result<Self> {
        let len = record.length();
        if record.is_sparse() || len == 0 {
            return Ok(Self { len, form: Form::Zeros });
        }
        let form = match record.stream_type() {
            raw::STREAM_PE_IMAGE => {
                let header: PeImage = regions.read(record.data, "the header of an executable")?;
                let count = u64::from(header.mapping_count.get());
                let header_size = size_of::<PeImage>() as u64;
                let mapping_size = size_of::<PeImageMapping>() as u64;
                let all = header_size + count * mapping_size;
                let object = regions.object(record.data, all, "the mappings of an executable")?;
                let mut mappings = vec![PeImageMapping::default(); usize::from(header.mapping_count.get())]
                    .into_boxed_slice();
                object.read_exact(header_size, zerocopy::IntoBytes::as_mut_bytes(&mut *mappings))?;
                if !mappings.is_sorted_by(|a, b| a.file_offset.get() < b.file_offset.get()) {
                    return Err(object.corrupt(header_size, "the mappings of an executable do not ascend"));
                }
                let data = regions.object(header.data, header.data_length.get(), "an executable")?;
                let stream = Self { len, form: Form::Image { data, mappings } };
                stream.check_segments(&object)?;
                return Ok(stream);
            }
            _ => Form::Bytes(regions.object(record.data, len, "the data of a file")?),
        };
        Ok(Self { len, form })
    }

    /// How many bytes there are.
    pub fn size(&self) -> u64 {
        self.len
    }

    /// Whether the stream has no data: all of it is zero.
    pub fn is_hole(&self) -> bool {
        matches!(self.form, Form::Zeros)
    }

    /// Of an executable: how much further in the data byte `at` is, and where the next mapping begins.
    fn segment(mappings: &[PeImageMapping], at: u64) -> (u64, u64) {
        let next = mappings.partition_point(|mapping| u64::from(mapping.file_offset.get()) <= at);
        let delta = next.checked_sub(1).map_or(0, |last| u64::from(mappings[last].delta.get()));
        (delta, mappings.get(next).map_or(u64::MAX, |mapping| u64::from(mapping.file_offset.get())))
    }

    /// Checks that every byte of an executable is in its data.
    fn check_segments(&self, header: &Object) -> Result<()> {
        let Form::Image { data, mappings } = &self.form else { return Ok(()) };
        let mut at = 0;
        while at < self.len {
            let (delta, end) = Self::segment(mappings, at);
            let end = end.min(self.len);
            if end + delta > data.len() {
                return Err(header.corrupt(0, "an executable passes the end of its data"));
            }
            at = end;
        }
        Ok(())
    }
}

impl ReadAt for Stream {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = self.len.saturating_sub(offset);
        let want = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let buf = &mut buf[..want];
        if want == 0 {
            return Ok(0);
        }
        match &self.form {
            Form::Zeros => {
                buf.fill(0);
                Ok(want)
            }
            Form::Bytes(object) => object.read_some(offset, buf),
            Form::Image { data, mappings } => {
                let (delta, end) = Self::segment(mappings, offset);
                let want = want.min(usize::try_from(end - offset).unwrap_or(usize::MAX));
                data.read_some(offset + delta, &mut buf[..want])
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("len", &self.len).finish_non_exhaustive()
    }
}
