//! What both ends can be told to bear.

/// The options of a `Builder` that has a `config`.
macro_rules! builder_options {
    () => {
        impl Builder {
            /// Everything by default.
            #[must_use]
            pub fn new() -> Self {
                Self::default()
            }

            /// Bytes that may come on one stream before they are consumed. Default: 65,535.
            #[must_use]
            pub fn initial_window_size(mut self, bytes: u32) -> Self {
                self.config.stream_window = bytes.min(crate::settings::MAX_WINDOW);
                self
            }

            /// Bytes that may come on all streams together before they are consumed. Default and least: 65,535.
            #[must_use]
            pub fn initial_connection_window_size(mut self, bytes: u32) -> Self {
                self.config.connection_window = bytes.min(crate::settings::MAX_WINDOW);
                self
            }

            /// Largest payload of a frame that is taken, from 16,384 to 16,777,215 bytes. Default: 16,384.
            #[must_use]
            pub fn max_frame_size(mut self, bytes: u32) -> Self {
                let (least, most) = (
                    crate::settings::DEFAULT_FRAME,
                    crate::settings::LARGEST_FRAME,
                );
                self.config.max_frame = bytes.clamp(least, most);
                self
            }

            /// Largest field list: name, value and 32 bytes of each field. Default: 16 KiB.
            #[must_use]
            pub fn max_header_list_size(mut self, bytes: u32) -> Self {
                self.config.max_head = bytes;
                self
            }

            /// Bytes that may wait to be sent on one stream. Default: 256 KiB.
            #[must_use]
            pub fn max_send_buffer_size(mut self, bytes: usize) -> Self {
                self.config.send_buffer = bytes;
                self
            }

            /// What small pieces of data that nobody has read yet may cost, in bytes; each counts for 256 less its length.
            /// Default: 1 MiB.
            #[must_use]
            pub fn data_frame_budget(mut self, bytes: usize) -> Self {
                self.config.small_data = bytes;
                self
            }
        }
    };
}
