//! Protocol buffers as bytes: numbered fields one after the other, read in place. Errors say at which byte.

/// What is wrong with the bytes, and where.
pub(super) type Wire<T> = Result<T, String>;

/// The fields of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'b> {
    bytes: &'b [u8],
    /// Where the rest of the message begins in the file.
    at: usize,
}

/// One field: its number, where it begins, and what it holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'b> {
    pub(super) number: u64,
    pub(super) at: usize,
    value: Value<'b>,
}

#[derive(Debug, Clone, Copy)]
enum Value<'b> {
    Number(u64),
    Fixed32([u8; 4]),
    Fixed64,
    Bytes(Message<'b>),
}

impl<'b> Message<'b> {
    /// The message that is a whole file.
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next field, if there is one.
    pub(super) fn next(&mut self) -> Wire<Option<Field<'b>>> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let at = self.at;
        let tag = self.number()?;
        let (number, kind) = (tag >> 3, tag & 7);
        let value = match kind {
            0 => Value::Number(self.number()?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let len = self.number()?;
                let at = self.at;
                Value::Bytes(Message { bytes: self.take(len)?, at })
            }
            5 => match self.take(4)? {
                &[a, b, c, d] => Value::Fixed32([a, b, c, d]),
                _ => return Err(format!("byte {at}: no four bytes")),
            },
            _ => return Err(format!("byte {at}: a field of kind {kind}, which such files do not have")),
        };
        if number == 0 {
            return Err(format!("byte {at}: a field without a number"));
        }
        Ok(Some(Field { number, at, value }))
    }

    fn number(&mut self) -> Wire<u64> {
        let (start, mut number) = (self.at, 0_u64);
        for shift in (0..70).step_by(7) {
            let &[byte] = self.take(1)? else { break };
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(format!("byte {start}: a number of more than 64 bits"))
    }

    fn take(&mut self, len: u64) -> Wire<&'b [u8]> {
        let taken = usize::try_from(len).ok().and_then(|len| self.bytes.split_at_checked(len));
        let (taken, rest) = taken.ok_or_else(|| {
            format!(
                "byte {}: {len} bytes should follow, but only {} are left: truncated or altered",
                self.at,
                self.bytes.len()
            )
        })?;
        self.bytes = rest;
        self.at += taken.len();
        Ok(taken)
    }
}

impl<'b> Field<'b> {
    pub(super) fn message(&self) -> Wire<Message<'b>> {
        match self.value {
            Value::Bytes(message) => Ok(message),
            _ => Err(self.wrong("a message")),
        }
    }

    pub(super) fn bytes(&self) -> Wire<&'b [u8]> {
        self.message().map(|message| message.bytes)
    }

    pub(super) fn text(&self) -> Wire<&'b str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| self.wrong("UTF-8"))
    }

    pub(super) fn number(&self) -> Wire<u64> {
        match self.value {
            Value::Number(number) => Ok(number),
            _ => Err(self.wrong("a number")),
        }
    }

    pub(super) fn flag(&self) -> Wire<bool> {
        self.number().map(|number| number != 0)
    }

    pub(super) fn float(&self) -> Wire<f32> {
        match self.value {
            Value::Fixed32(bytes) => Ok(f32::from_le_bytes(bytes)),
            _ => Err(self.wrong("a float")),
        }
    }

    fn wrong(&self, expected: &str) -> String {
        format!("byte {}: field {} should be {expected}", self.at, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fields(bytes: &[u8]) -> Wire<Vec<Field<'_>>> {
        let mut message = Message::new(bytes);
        std::iter::from_fn(|| message.next().transpose()).collect()
    }

    #[test]
    fn fields_are_read_as_they_are_written() {
        let bytes = [8, 0x96, 1, 0x12, 2, b'h', b'i', 0x1d, 0, 0, 0x80, 0x3f, 0x21, 0, 0, 0, 0, 0, 0, 0, 0];
        let found = fields(&bytes).unwrap();
        assert_eq!(found.iter().map(|field| field.number).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(found.iter().map(|field| field.at).collect::<Vec<_>>(), [0, 3, 7, 12]);
        assert_eq!((found[0].number().unwrap(), found[1].text().unwrap()), (150, "hi"));
        assert_eq!(found[2].float().unwrap().to_bits(), 1.0_f32.to_bits());
        assert_eq!(found[1].number().unwrap_err(), "byte 3: field 2 should be a number");
        assert_eq!(found[0].text().unwrap_err(), "byte 0: field 1 should be a message");
    }

    #[test]
    fn damage_is_named_with_its_place() {
        let cases: [(&[u8], &str); 6] = [
            (&[8], "byte 1: 1 bytes should follow, but only 0 are left"),
            (&[8, 1, 0x12, 5, b'h'], "byte 4: 5 bytes should follow, but only 1 are left"),
            (&[8, 1, 0x1d, 0, 0], "byte 3: 4 bytes should follow"),
            (&[0x0b], "byte 0: a field of kind 3"),
            (&[2, 0], "byte 0: a field without a number"),
            (&[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2], "byte 1: a number of more than 64 bits"),
        ];
        for (bytes, message) in cases {
            assert!(fields(bytes).unwrap_err().starts_with(message), "{message}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_fields_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = fields(&bytes);
        }
    }
}
