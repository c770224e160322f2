//! Exact rational numbers, and how people write them.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;

/// A rational number in lowest terms with a positive denominator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rational {
    numerator: i128,
    denominator: i128,
}

impl Rational {
    /// `numerator / denominator` in lowest terms; `None` if the denominator is 0 or 128 bits are too few.
    pub fn new(numerator: i128, denominator: i128) -> Option<Self> {
        let divisor = i128::try_from(gcd(numerator.unsigned_abs(), denominator.unsigned_abs())).ok()?;
        if denominator == 0 || numerator == i128::MIN || denominator == i128::MIN {
            return None;
        }
        let sign = denominator.signum();
        Some(Self { numerator: sign * numerator / divisor, denominator: sign * denominator / divisor })
    }

    /// The part above the line.
    pub fn numerator(self) -> i128 {
        self.numerator
    }

    /// The part below the line, at least 1.
    pub fn denominator(self) -> i128 {
        self.denominator
    }

    /// The sum, or `None` if it needs more than 128 bits.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        let left = self.numerator.checked_mul(other.denominator)?;
        let right = other.numerator.checked_mul(self.denominator)?;
        Self::new(left.checked_add(right)?, self.denominator.checked_mul(other.denominator)?)
    }

    /// The difference, or `None` if it needs more than 128 bits.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.checked_add(other.negated())
    }

    /// The product, or `None` if it needs more than 128 bits.
    pub fn checked_mul(self, other: Self) -> Option<Self> {
        Self::new(
            self.numerator.checked_mul(other.numerator)?,
            self.denominator.checked_mul(other.denominator)?,
        )
    }

    /// The quotient, or `None` if `other` is 0 or the quotient needs more than 128 bits.
    pub fn checked_div(self, other: Self) -> Option<Self> {
        Self::new(
            self.numerator.checked_mul(other.denominator)?,
            self.denominator.checked_mul(other.numerator)?,
        )
    }

    /// The number with the other sign; `new` keeps `i128::MIN` out, so this always fits.
    #[must_use]
    pub fn negated(self) -> Self {
        Self { numerator: -self.numerator, denominator: self.denominator }
    }

    /// Whether this is 0.
    pub fn is_zero(self) -> bool {
        self.numerator == 0
    }
}

impl fmt::Display for Rational {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.denominator {
            1 => write!(f, "{}", self.numerator),
            _ => write!(f, "{}/{}", self.numerator, self.denominator),
        }
    }
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

/// The number that a whole answer states, or `None` if it is not one number.
///
/// Reads signs (also U+2212), thousands groups, decimals, exponents, `a/b`, `\frac{a}{b}`; passes over a
/// currency sign before it, a percent sign, a full stop or LaTeX `$` around it. `50%` is 50.
pub fn parse_number(text: &str) -> Option<Rational> {
    let text = text.trim().trim_end_matches('.').trim_matches('$').trim();
    let text = text.strip_suffix('%').map_or(text, |rest| rest.trim_end_matches('\\').trim_end());
    let text = text.strip_prefix("\\$").unwrap_or(text);
    if let Some(fraction) = parse_latex_fraction(text) {
        return Some(fraction);
    }
    let span = numbers(text).next()?;
    let before = &text[..span.start];
    if span.end == text.len() && before.chars().all(|c| CURRENCY.contains(&c)) {
        parse_token(&text[span])
    } else {
        None
    }
}

fn parse_latex_fraction(text: &str) -> Option<Rational> {
    let (is_negative, text) = strip_sign(text);
    let text = ["\\frac{", "\\dfrac{", "\\tfrac{"].iter().find_map(|name| text.strip_prefix(name))?;
    let (above, below) = text.strip_suffix('}')?.split_once("}{")?;
    let value = parse_number(above)?.checked_div(parse_number(below)?)?;
    Some(if is_negative { value.negated() } else { value })
}

const CURRENCY: [char; 4] = ['$', '€', '£', '¥'];
const MINUS: [char; 2] = ['-', '\u{2212}'];

fn strip_sign(text: &str) -> (bool, &str) {
    match text.strip_prefix(MINUS) {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

/// The value of one token that [`numbers`] found.
pub(super) fn parse_token(token: &str) -> Option<Rational> {
    let (is_negative, body) = strip_sign(token);
    let body = body.trim_start_matches(CURRENCY);
    let value = match body.split_once('/') {
        Some((above, below)) => parse_decimal(above)?.checked_div(parse_decimal(below)?)?,
        None => parse_decimal(body)?,
    };
    Some(if is_negative { value.negated() } else { value })
}

/// Digits with thousands groups, a decimal point and an exponent, without a sign.
fn parse_decimal(text: &str) -> Option<Rational> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    // Zeros at the end of the fraction say nothing and would cost range.
    let fraction = fraction.trim_end_matches('0');
    let mut numerator: i128 = 0;
    for digit in whole.bytes().filter(|&b| b != b',').chain(fraction.bytes()) {
        numerator = numerator.checked_mul(10)?.checked_add(i128::from(digit.checked_sub(b'0')?))?;
    }
    let exponent = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let power = 10i128.checked_pow(exponent.unsigned_abs());
    match (numerator, exponent.cmp(&0)) {
        (0, _) => Rational::new(0, 1),
        (_, Ordering::Less) => Rational::new(numerator, power?),
        (..) => Rational::new(numerator.checked_mul(power?)?, 1),
    }
}

/// Where numbers stand in a text, from left to right, each with its sign and currency.
///
/// A minus is a sign when it touches the number and does not follow a letter, a digit or a closing bracket:
/// `10-5` holds 10 and 5, `x = -5` holds -5.
pub(super) fn numbers(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() {
            let starts = bytes[at].is_ascii_digit()
                || (bytes[at] == b'.' && bytes.get(at + 1).is_some_and(u8::is_ascii_digit));
            if !starts {
                at += 1;
                continue;
            }
            let start = with_sign(text, at);
            at = unsigned_end(bytes, at);
            if bytes.get(at) == Some(&b'/') && bytes.get(at + 1).is_some_and(u8::is_ascii_digit) {
                at = unsigned_end(bytes, at + 1);
            }
            return Some(start..at);
        }
        None
    })
}

/// Where the sign and currency before the digits at `start` begin.
fn with_sign(text: &str, start: usize) -> usize {
    let without_currency = text[..start].trim_end_matches(CURRENCY);
    let without_sign = without_currency.strip_suffix(MINUS).or_else(|| without_currency.strip_suffix('+'));
    match without_sign {
        Some(before) if !before.ends_with(|c: char| c.is_alphanumeric() || ")]}%".contains(c)) => {
            before.len()
        }
        _ => start,
    }
}

/// Where the unsigned number that begins at `at` ends.
pub(super) fn unsigned_end(bytes: &[u8], mut at: usize) -> usize {
    let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let first = digits(at);
    at += first;
    if (1..=3).contains(&first) {
        while bytes.get(at) == Some(&b',') && digits(at + 1) == 3 {
            at += 4;
        }
    }
    if bytes.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        at += if fraction == 0 { 0 } else { fraction + 1 };
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let exponent = bytes.get(at + 1 + sign..).map_or(0, |_| digits(at + 1 + sign));
        let end = at + 1 + sign + exponent;
        if exponent > 0 && !bytes.get(end).is_some_and(u8::is_ascii_alphanumeric) {
            at = end;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(text: &str) -> Option<(i128, i128)> {
        parse_number(text).map(|number| (number.numerator(), number.denominator()))
    }

    /// Trap L15: verifiers that misread "-5" or "1,000".
    #[test]
    fn numbers_are_read_as_people_write_them() {
        for (text, expected) in [
            ("-5", (-5, 1)),
            ("\u{2212}5", (-5, 1)),
            ("1,000", (1000, 1)),
            ("-1,234,567.50", (-2_469_135, 2)),
            ("3.50", (7, 2)),
            (".5", (1, 2)),
            ("+7", (7, 1)),
            ("$18", (18, 1)),
            ("-$18.00", (-18, 1)),
            ("$-18", (-18, 1)),
            ("18 %", (18, 1)),
            ("50\\%", (50, 1)),
            ("18.", (18, 1)),
            ("6/8", (3, 4)),
            ("\\frac{1}{2}", (1, 2)),
            ("-\\dfrac{3}{6}", (-1, 2)),
            ("$\\tfrac{3}{6}$", (1, 2)),
            ("2e3", (2000, 1)),
            ("25E-1", (5, 2)),
            ("0e999", (0, 1)),
            ("0.000", (0, 1)),
            ("-0", (0, 1)),
        ] {
            assert_eq!(value(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_one_number_is_none() {
        for text in
            ["", "-", "$", "five", "5 apples", "3 4", "1,00", "10-5", "1/0", "x5", "2e999", "\\frac{1}{0}"]
        {
            assert_eq!(value(text), None, "{text}");
        }
    }

    #[test]
    fn a_minus_between_numbers_is_not_a_sign() {
        let found = |text: &'static str| numbers(text).map(|span| &text[span]).collect::<Vec<_>>();
        assert_eq!(found("10-5=5"), ["10", "5", "5"]);
        assert_eq!(found("x = -5."), ["-5"]);
        assert_eq!(found("(3)-4, [-4]"), ["3", "4", "-4"]);
        assert_eq!(found("1,000,2"), ["1,000", "2"]);
        assert_eq!(found("5e"), ["5"]);
        assert_eq!(found("€1,000.5é-2"), ["1,000.5", "2"]);
    }

    proptest! {
        #[test]
        fn any_text_is_scanned_without_panic(text in "[-+$€.,0-9eE/%\\\\{}()a-é−]{0,30}") {
            for span in numbers(&text) {
                prop_assert!(text.is_char_boundary(span.start) && text.is_char_boundary(span.end));
                parse_token(&text[span]);
            }
            parse_number(&text);
        }

        #[test]
        fn integers_round_trip_with_groups(n in -10i128.pow(18)..10i128.pow(18)) {
            let digits = n.unsigned_abs().to_string();
            let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(|c| std::str::from_utf8(c).unwrap()).collect();
            let text = format!("{}{}", if n < 0 { "-" } else { "" }, groups.join(","));
            prop_assert_eq!(value(&text), Some((n, 1)));
            prop_assert_eq!(value(&n.to_string()), Some((n, 1)));
        }

        #[test]
        fn arithmetic_obeys_the_field_laws(
            a in -1000i128..1000, b in 1i128..1000, c in -1000i128..1000, d in 1i128..1000,
        ) {
            let (x, y) = (Rational::new(a, b).unwrap(), Rational::new(c, d).unwrap());
            prop_assert_eq!(x.checked_add(y).unwrap().checked_sub(y).unwrap(), x);
            match x.checked_div(y) {
                Some(quotient) => prop_assert_eq!(quotient.checked_mul(y).unwrap(), x),
                None => prop_assert!(y.is_zero()),
            }
        }
    }
}
