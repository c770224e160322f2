//! A calculator for text from outside: exact, bounded in length, depth and size of its numbers.

use super::number::{Rational, parse_token, unsigned_end};
use crate::{Error, Result};

/// Longest expression, in bytes.
pub const MAX_LEN: usize = 4096;

/// Deepest nesting of parentheses and signs.
pub const MAX_DEPTH: usize = 64;

/// The exact value of an expression of numbers, `+ - * /` and parentheses.
///
/// # Errors
/// [`Error::Value`] saying where the expression is wrong, or that it divides by 0, is too long, nests too
/// deeply, or needs more than 128 bits.
pub fn evaluate(expression: &str) -> Result<Rational> {
    if expression.len() > MAX_LEN {
        return Err(Error::value(format!("expression of {} bytes, at most {MAX_LEN}", expression.len())));
    }
    let mut parser = Parser { text: expression, at: 0 };
    let value = parser.sum(0)?;
    match parser.peek() {
        None => Ok(value),
        Some(_) => Err(parser.unexpected("an operator")),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn sum(&mut self, depth: usize) -> Result<Rational> {
        let mut value = self.product(depth)?;
        while let Some(operator @ (b'+' | b'-')) = self.peek() {
            self.at += 1;
            let right = self.product(depth)?;
            let result = if operator == b'+' { value.checked_add(right) } else { value.checked_sub(right) };
            value = result.ok_or_else(too_large)?;
        }
        Ok(value)
    }

    fn product(&mut self, depth: usize) -> Result<Rational> {
        let mut value = self.factor(depth)?;
        while let Some(operator @ (b'*' | b'/')) = self.peek() {
            self.at += 1;
            let right = self.factor(depth)?;
            if operator == b'/' && right.is_zero() {
                return Err(Error::value("division by zero"));
            }
            let result = if operator == b'*' { value.checked_mul(right) } else { value.checked_div(right) };
            value = result.ok_or_else(too_large)?;
        }
        Ok(value)
    }

    fn factor(&mut self, depth: usize) -> Result<Rational> {
        if depth > MAX_DEPTH {
            return Err(Error::value(format!("expression nests more than {MAX_DEPTH} deep")));
        }
        match self.peek() {
            Some(b'-') => {
                self.at += 1;
                Ok(self.factor(depth + 1)?.negated())
            }
            Some(b'+') => {
                self.at += 1;
                self.factor(depth + 1)
            }
            Some(b'(') => {
                self.at += 1;
                let value = self.sum(depth + 1)?;
                if self.peek() != Some(b')') {
                    return Err(self.unexpected("\")\""));
                }
                self.at += 1;
                Ok(value)
            }
            Some(b'0'..=b'9' | b'.') => {
                let end = unsigned_end(self.text.as_bytes(), self.at);
                if end == self.at {
                    return Err(self.unexpected("a digit"));
                }
                let token = &self.text[self.at..end];
                self.at = end;
                parse_token(token).ok_or_else(too_large)
            }
            _ => Err(self.unexpected("a number")),
        }
    }

    /// The next byte that is not a space.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn unexpected(&self, expected: &str) -> Error {
        let found = self.text[self.at..].chars().next().map_or("the end".to_owned(), |c| format!("{c:?}"));
        Error::value(format!("expected {expected} at byte {}, found {found}", self.at))
    }
}

fn too_large() -> Error {
    Error::value("a number needs more than 128 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(expression: &str) -> String {
        evaluate(expression).unwrap().to_string()
    }

    #[test]
    fn expressions_follow_the_usual_precedence() {
        assert_eq!(value("16 - 3 - 4"), "9");
        assert_eq!(value("2+3*4"), "14");
        assert_eq!(value("(2+3)*4"), "20");
        assert_eq!(value("100/8/2"), "25/4");
        assert_eq!(value("-(-2)*--3"), "6");
        assert_eq!(value("1,000*.5+1.25"), "2005/4");
        assert_eq!(value("0.1+0.2"), "3/10");
    }

    #[test]
    fn what_cannot_be_evaluated_is_an_error() {
        let deep = "(".repeat(10_000 / 4) + "1";
        let signs = "-".repeat(4000) + "1";
        let long = "1+".repeat(MAX_LEN);
        let large = "9".repeat(40);
        let power = "2**3";
        for text in ["", "1+", "1/0", "(1", "1)", "1 2", ".", "a", "é", &deep, &signs, &long, &large, power]
        {
            assert!(evaluate(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn integers_agree_with_native_arithmetic(a in -999i64..999, b in -999i64..999, c in 1i64..999) {
            let expected = Rational::new(i128::from(a * c + b), i128::from(c)).unwrap();
            prop_assert_eq!(evaluate(&format!("{a}+({b})/{c}")).unwrap(), expected);
        }

        #[test]
        fn any_text_is_evaluated_without_panic(text in "[-+*/().,0-9 eé]{0,40}") {
            let _ = evaluate(&text);
        }
    }
}
