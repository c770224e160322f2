//! Token files: format, writer, memory-mapped reader.
