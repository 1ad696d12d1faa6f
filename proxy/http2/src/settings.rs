//! Settings of either end (RFC 9113 §6.5).

use crate::error::{Cause, Fault, Reason};
use crate::frame::{self, Header};

/// What this end wants and bears.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) stream_window: u32,
    pub(crate) connection_window: u32,
    pub(crate) max_frame: u32,
    /// Largest field list, as §6.5.2 counts it.
    pub(crate) max_head: u32,
    /// Streams that the other end may have open.
    pub(crate) max_streams: u32,
    /// Most bytes that wait to be sent on one stream.
    pub(crate) send_buffer: usize,
    /// What small pieces of data that nobody has read yet may cost.
    pub(crate) small_data: usize,
    /// Streams that may be reset before anybody looked at them.
    pub(crate) pending_resets: usize,
    /// Streams that the other end may make us reset at a time.
    pub(crate) local_resets: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            stream_window: DEFAULT_WINDOW,
            connection_window: DEFAULT_WINDOW,
            max_frame: DEFAULT_FRAME,
            max_head: 16 * 1024,
            max_streams: 100,
            send_buffer: 256 * 1024,
            small_data: 1024 * 1024,
            pending_resets: 20,
            local_resets: 256,
        }
    }
}

impl Config {
    /// Appends the SETTINGS that say it, and the window of the connection, which is not one of them.
    pub(crate) fn encode(&self, is_server: bool, out: &mut Vec<u8>) {
        let first = if is_server {
            (MAX_CONCURRENT_STREAMS, self.max_streams)
        } else {
            (ENABLE_PUSH, 0)
        };
        let all = [
            first,
            (INITIAL_WINDOW_SIZE, self.stream_window),
            (MAX_FRAME_SIZE, self.max_frame),
            (MAX_HEADER_LIST_SIZE, self.max_head),
        ];
        out.extend_from_slice(&Header::bytes(
            all.len() * SETTING_BYTES,
            frame::SETTINGS,
            0,
            0,
        ));
        for (id, value) in all {
            out.extend_from_slice(&id.to_be_bytes());
            out.extend_from_slice(&value.to_be_bytes());
        }
        if let Some(more) = self.connection_window.checked_sub(DEFAULT_WINDOW)
            && more > 0
        {
            frame::window_update(out, 0, more);
        }
    }
}

/// What the other end says, one setting after the other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Setting {
    TableSize(u32),
    MaxStreams(u32),
    StreamWindow(u32),
    MaxFrame(usize),
}

/// Reads a SETTINGS payload; what is unknown or only advice is passed over.
pub(crate) fn parse(
    payload: &[u8],
    from_server: bool,
    mut each: impl FnMut(Setting) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let (settings, rest) = payload.as_chunks::<SETTING_BYTES>();
    if !rest.is_empty() {
        return Err(frame::frame_size());
    }
    for &[i0, i1, v0, v1, v2, v3] in settings {
        let value = u32::from_be_bytes([v0, v1, v2, v3]);
        match u16::from_be_bytes([i0, i1]) {
            HEADER_TABLE_SIZE => each(Setting::TableSize(value))?,
            // A server may not allow what only servers do (§6.5.2).
            ENABLE_PUSH if value > 1 || (from_server && value > 0) => {
                return Err(Fault::protocol(Cause::Settings));
            }
            MAX_CONCURRENT_STREAMS => each(Setting::MaxStreams(value))?,
            INITIAL_WINDOW_SIZE if value > MAX_WINDOW => {
                return Err(Fault::Connection(
                    Reason::FLOW_CONTROL_ERROR,
                    Cause::Settings,
                ));
            }
            INITIAL_WINDOW_SIZE => each(Setting::StreamWindow(value))?,
            MAX_FRAME_SIZE if !(DEFAULT_FRAME..=LARGEST_FRAME).contains(&value) => {
                return Err(Fault::protocol(Cause::Settings));
            }
            MAX_FRAME_SIZE => {
                each(Setting::MaxFrame(usize::try_from(value).unwrap_or(16_384)))?;
            }
            _ => {}
        }
    }
    Ok(())
}

const SETTING_BYTES: usize = 6;
const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;
/// What windows are before anybody said otherwise (§6.9.2).
pub(crate) const DEFAULT_WINDOW: u32 = 65_535;
pub(crate) const MAX_WINDOW: u32 = u32::MAX >> 1;
pub(crate) const DEFAULT_FRAME: u32 = 16_384;
pub(crate) const LARGEST_FRAME: u32 = (1 << 24) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(id: u16, value: u32, from_server: bool, expected: Result<Option<Setting>, Fault>) {
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend(value.to_be_bytes());
        let mut seen = None;
        let parsed = parse(&payload, from_server, |setting| {
            seen = Some(setting);
            Ok(())
        });
        assert_eq!(parsed.map(|()| seen), expected);
        for length in 1..payload.len() {
            let cut = parse(&payload[..length], from_server, |_| Ok(()));
            assert_eq!(cut, Err(frame::frame_size()));
        }
    }

    #[test]
    fn settings_have_bounds() {
        let wrong = Err(Fault::protocol(Cause::Settings));
        let window = Fault::Connection(Reason::FLOW_CONTROL_ERROR, Cause::Settings);
        check(1, 4096, false, Ok(Some(Setting::TableSize(4096))));
        check(2, 0, true, Ok(None));
        check(2, 1, false, Ok(None));
        check(2, 1, true, wrong);
        check(2, 2, false, wrong);
        check(3, 0, false, Ok(Some(Setting::MaxStreams(0))));
        check(
            4,
            MAX_WINDOW,
            false,
            Ok(Some(Setting::StreamWindow(MAX_WINDOW))),
        );
        check(4, MAX_WINDOW + 1, false, Err(window));
        check(5, 16_384, false, Ok(Some(Setting::MaxFrame(16_384))));
        check(5, 16_383, false, wrong);
        check(5, 1 << 24, false, wrong);
        check(0xbeef, 1, false, Ok(None));
    }

    #[test]
    fn what_we_say_the_other_end_can_read() {
        let mut out = Vec::new();
        Config::default().encode(false, &mut out);
        let (header, rest) = Header::parse(&out).unwrap();
        assert_eq!(header.length, rest.len());
        let mut count = 0;
        parse(rest, false, |_| {
            count += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(count, 2);
    }
}
