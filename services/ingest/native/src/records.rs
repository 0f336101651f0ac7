//! Records of a batch as Kafka stores it (format 2), each one object of Python that makes its parts when somebody looks at them.
//!
//! https://kafka.apache.org/documentation/#record says what is where. Whatever does not fit is an error, and then aiokafka looks at it.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};
use std::ops::Range;

/// A record: what `shared.slices.Record` asks for. Its bytes lie in `block`, which lives as long as one of its records does.
#[pyclass(module = "tallystick_native", frozen)]
pub struct Record {
    block: Py<PyBytes>,
    topic: Py<PyString>,
    #[pyo3(get)]
    partition: i32,
    #[pyo3(get)]
    offset: i64,
    /// Milliseconds since 1970.
    #[pyo3(get)]
    timestamp: i64,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: Range<usize>,
    header_count: usize,
}

#[pymethods]
impl Record {
    #[getter]
    fn topic(&self, py: Python) -> Py<PyString> {
        self.topic.clone_ref(py)
    }

    #[getter]
    fn key<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.part(py, self.key.as_ref())
    }

    #[getter]
    fn value<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.part(py, self.value.as_ref())
    }

    /// How long the value is, -1 without one: as aiokafka says it, and without making the value.
    #[getter]
    fn serialized_value_size(&self) -> i64 {
        self.value.as_ref().map_or(-1, |value| value.len() as i64)
    }

    /// Names and values; what is not UTF-8 in a name is escaped, as shared/fetching.py does.
    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let mut found = Vec::with_capacity(self.header_count);
        self.each_header(py, |name, value| {
            let name = PyBytes::new(py, name).call_method1("decode", ("utf-8", "backslashreplace"))?;
            found.push((name, value.map(|value| PyBytes::new(py, value))));
            Ok(())
        })?;
        PyTuple::new(py, found)
    }

    fn __repr__(&self, py: Python) -> PyResult<String> {
        Ok(format!("Record({}[{}] {})", self.topic.bind(py).to_cow()?, self.partition, self.offset))
    }
}

impl Record {
    /// Return the value's bytes where they are, none for a record without one.
    pub fn bytes<'a>(&'a self, py: Python<'a>) -> &'a [u8] {
        self.value.as_ref().map_or(&[], |value| &self.block.as_bytes(py)[value.clone()])
    }

    /// Tell whether an event's attributes may be in the headers.
    pub fn has_attributes(&self, py: Python) -> PyResult<bool> {
        let mut found = false;
        self.each_header(py, |name, _| {
            found |= name.starts_with(b"ce_");
            Ok(())
        })?;
        Ok(found)
    }

    fn part<'py>(&self, py: Python<'py>, place: Option<&Range<usize>>) -> Option<Bound<'py, PyBytes>> {
        place.map(|place| PyBytes::new(py, &self.block.as_bytes(py)[place.clone()]))
    }

    fn each_header<'a>(
        &'a self,
        py: Python<'a>,
        mut look: impl FnMut(&'a [u8], Option<&'a [u8]>) -> PyResult<()>,
    ) -> PyResult<()> {
        if self.header_count == 0 {
            return Ok(());
        }
        let block = self.block.as_bytes(py);
        let mut reader = Reader { block: &block[..self.headers.end], at: self.headers.start };
        for _ in 0..self.header_count {
            let (name, value) = reader.header()?;
            look(&block[name], value.map(|value| &block[value]))?;
        }
        Ok(())
    }
}

/// Return the `count` records that make up `block[start..end]`, and nothing else does. Raises ValueError for anything out of shape.
///
/// Offsets and times are counted from `base_offset` and `first_timestamp`; `append_time`, if the broker has set it, is that of all of them.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
pub fn records(
    block: &Bound<PyBytes>,
    start: usize,
    end: usize,
    count: usize,
    base_offset: i64,
    first_timestamp: i64,
    append_time: Option<i64>,
    topic: &Bound<PyString>,
    partition: i32,
) -> PyResult<Vec<Record>> {
    let bytes = block.as_bytes().get(..end).ok_or_else(|| out_of_shape("it ends behind its bytes"))?;
    let mut reader = Reader { block: bytes, at: start };
    let mut found = Vec::with_capacity(count.min(bytes.len() / 8));
    for _ in 0..count {
        let length = reader.number()?;
        let next = usize::try_from(length).ok().and_then(|length| reader.at.checked_add(length));
        if reader.number()? != 0 {
            return Err(out_of_shape("attributes, of which none are defined"));
        }
        let (timestamp, offset) = (reader.number()?, reader.number()?);
        let (key, value) = (reader.part()?, reader.part()?);
        let header_count = usize::try_from(reader.number()?).map_err(|_| out_of_shape("fewer headers than none"))?;
        let headers = reader.at;
        for _ in 0..header_count {
            reader.header()?;
        }
        if Some(reader.at) != next {
            return Err(out_of_shape("a record is not as long as it says"));
        }
        let too_large = || out_of_shape("too large a number");
        found.push(Record {
            block: block.clone().unbind(),
            topic: topic.clone().unbind(),
            partition,
            offset: base_offset.checked_add(offset).ok_or_else(too_large)?,
            timestamp: match append_time {
                Some(time) => time,
                None => first_timestamp.checked_add(timestamp).ok_or_else(too_large)?,
            },
            key,
            value,
            headers: headers..reader.at,
            header_count,
        });
    }
    if reader.at != end {
        return Err(out_of_shape("something follows the last record"));
    }
    Ok(found)
}

/// Return the checksum (CRC-32C) of `block[start..end]`.
#[pyfunction]
pub fn checksum(block: &Bound<PyBytes>, start: usize, end: usize) -> PyResult<u32> {
    block.as_bytes().get(start..end).map(crc32c::crc32c).ok_or_else(|| out_of_shape("it ends behind its bytes"))
}

fn out_of_shape(why: &'static str) -> PyErr {
    PyValueError::new_err(why)
}

struct Reader<'a> {
    block: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn skip(&mut self, bytes: usize) -> PyResult<Range<usize>> {
        let start = self.at;
        self.at =
            start.checked_add(bytes).filter(|end| *end <= self.block.len()).ok_or_else(|| out_of_shape("cut off"))?;
        Ok(start..self.at)
    }

    /// A number of variable length: seven bits a byte, the lowest first, the sign in the lowest bit.
    fn number(&mut self) -> PyResult<i64> {
        let mut found: u64 = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.block.get(self.at).ok_or_else(|| out_of_shape("cut off"))?;
            self.at += 1;
            found |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((found >> 1) as i64 ^ -((found & 1) as i64));
            }
        }
        Err(out_of_shape("a number that does not end"))
    }

    /// Bytes with their length in front; -1: none.
    fn part(&mut self) -> PyResult<Option<Range<usize>>> {
        match self.number()? {
            -1 => Ok(None),
            length => self.skip(usize::try_from(length).map_err(|_| out_of_shape("shorter than nothing"))?).map(Some),
        }
    }

    fn header(&mut self) -> PyResult<(Range<usize>, Option<Range<usize>>)> {
        let name = self.part()?.ok_or_else(|| out_of_shape("a header without a name"))?;
        Ok((name, self.part()?))
    }
}
