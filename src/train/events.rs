//! Curves for TensorBoard: numbers by name and step as a file of its events (TFRecord of `tensorflow.Event`). Knows nothing of what the
//! numbers mean.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crc::{CRC_32_ISCSI, Crc};

/// TensorBoard looks for `tfevents` in names.
pub const FILE: &str = "events.out.tfevents.0.ulm";

const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// A file that is being written.
pub struct Events(File);

impl Events {
    /// Begins a new file in `dir`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(dir: &Path) -> std::io::Result<Self> {
        let mut events = Self(File::create(dir.join(FILE))?);
        events.record(&event(now(), 0, |event| text(event, 3, "brain.Event:2")))?;
        Ok(events)
    }

    /// Adds the numbers of a step.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&mut self, step: u64, numbers: &[(String, f64)]) -> std::io::Result<()> {
        let mut summary = Vec::new();
        for (name, number) in numbers {
            let mut value = Vec::new();
            text(&mut value, 1, name);
            value.push(2 << 3 | FIXED32);
            value.extend((*number as f32).to_le_bytes());
            block(&mut summary, 1, &value);
        }
        self.record(&event(now(), step, |event| block(event, 5, &summary)))
    }

    /// One record: length, its checksum, the bytes, their checksum.
    fn record(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let length = (bytes.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked(&length));
        record.extend(bytes);
        record.extend(masked(bytes));
        self.0.write_all(&record)
    }
}

/// Wire types of protocol buffers.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BLOCK: u8 = 2;
const FIXED32: u8 = 5;

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn event(time: f64, step: u64, what: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut event = vec![1 << 3 | FIXED64];
    event.extend(time.to_le_bytes());
    event.push(2 << 3 | VARINT);
    varint(&mut event, step);
    what(&mut event);
    event
}

fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn block(bytes: &mut Vec<u8>, field: u8, content: &[u8]) {
    bytes.push(field << 3 | BLOCK);
    varint(bytes, content.len() as u64);
    bytes.extend(content);
}

fn text(bytes: &mut Vec<u8>, field: u8, content: &str) {
    block(bytes, field, content.as_bytes());
}

/// CRC-32C as TFRecord masks it.
fn masked(bytes: &[u8]) -> [u8; 4] {
    CRC.checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that TensorFlow's `summary_pb2` and `TFRecordWriter` make of the same event.
    #[test]
    fn an_event_by_hand() {
        let mut value = Vec::new();
        text(&mut value, 1, "loss");
        value.push(2 << 3 | FIXED32);
        value.extend(0.5f32.to_le_bytes());
        assert_eq!(value, b"\x0a\x04loss\x15\x00\x00\x00\x3f");
        let whole = event(1.5, 300, |event| block(event, 5, &[]));
        assert_eq!(whole, b"\x09\x00\x00\x00\x00\x00\x00\xf8\x3f\x10\xac\x02\x2a\x00");
        // CRC-32C of "123456789" is 0xe3069283; turned by 15 bits, plus 0xa282ead8.
        assert_eq!(masked(b"123456789"), 0xc78a_b0e5u32.to_le_bytes());
    }

    #[test]
    fn a_file_is_whole_records() {
        let dir = tempfile::tempdir().unwrap();
        let mut events = Events::create(dir.path()).unwrap();
        events.add(7, &[("a".into(), 1.0), ("b".into(), f64::NAN)]).unwrap();
        let bytes = std::fs::read(dir.path().join(FILE)).unwrap();
        let (mut at, mut records) = (0, 0);
        while at < bytes.len() {
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            assert_eq!(bytes[at + 8..at + 12], masked(&bytes[at..at + 8]));
            let content = &bytes[at + 12..at + 12 + length];
            assert_eq!(bytes[at + 12 + length..at + 16 + length], masked(content));
            (at, records) = (at + 16 + length, records + 1);
        }
        assert_eq!((at, records), (bytes.len(), 2));
    }
}
