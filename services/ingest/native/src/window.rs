//! Sets of ids: those of a batch, and the window of recent events (services/ingest/recent.py says what it is for).

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::collections::HashSet;

use crate::rows::Key;

/// The 16-byte ids of a batch.
#[pyclass(module = "tallystick_native")]
#[derive(Default)]
pub struct Keys {
    pub ids: HashSet<Key>,
}

#[pymethods]
impl Keys {
    #[new]
    fn new() -> Self {
        Keys::default()
    }

    fn add(&mut self, key: Key) {
        self.ids.insert(key);
    }

    fn __len__(&self) -> usize {
        self.ids.len()
    }

    fn __contains__(&self, key: &[u8]) -> bool {
        self.ids.contains(key)
    }

    fn __iter__(&self) -> KeysIterator {
        KeysIterator { left: self.ids.iter().copied().collect() }
    }
}

#[pyclass]
struct KeysIterator {
    left: Vec<Key>,
}

#[pymethods]
impl KeysIterator {
    fn __iter__(this: PyRef<Self>) -> PyRef<Self> {
        this
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.left.pop().map(|key| PyBytes::new(py, &key))
    }
}

/// The ids of the last events that were committed: between one and two generations of them.
#[pyclass(module = "tallystick_native")]
pub struct Window {
    generation: usize,
    young: HashSet<Key>,
    old: HashSet<Key>,
}

impl Window {
    pub fn has(&self, key: &[u8]) -> bool {
        self.young.contains(key) || self.old.contains(key)
    }
}

#[pymethods]
impl Window {
    #[new]
    fn new(generation: usize) -> Self {
        Window { generation, young: HashSet::new(), old: HashSet::new() }
    }

    fn __contains__(&self, key: &[u8]) -> bool {
        self.has(key)
    }

    /// Add ids, 16 bytes each.
    fn remember(&mut self, keys: &Bound<PyAny>) -> PyResult<()> {
        if let Ok(keys) = keys.cast::<Keys>() {
            self.young.extend(&keys.borrow().ids);
        } else {
            for key in keys.try_iter()? {
                self.young.insert(key?.extract::<Key>()?);
            }
        }
        if self.young.len() >= self.generation {
            self.old = std::mem::take(&mut self.young);
        }
        Ok(())
    }
}
