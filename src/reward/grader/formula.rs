//! The formula by which a `multi` grader puts its parts together: numbers, names, `+ - * / ^`, parentheses and a few functions. Bounded in
//! length and depth when it is read; what is read is a list of steps, so working it out needs no recursion. Knows no grader.

use std::fmt;

/// Longest formula, in bytes.
const LONGEST: usize = 1024;
/// Deepest nesting of parentheses, signs and powers.
const DEEPEST: usize = 32;

/// Why a text is no formula.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FormulaError {
    #[error("has more than {LONGEST} bytes")]
    Long,
    #[error("is nested deeper than {DEEPEST}")]
    Deep,
    #[error("names `{0}`, which is none of its graders")]
    Name(String),
    #[error("calls `{0}`; there are min, max, abs, floor, ceil, exp, sqrt and log")]
    Function(String),
    #[error("gives {0} {1} of numbers")]
    Arguments(Function, usize),
    #[error("cannot be read at character {0}")]
    Syntax(usize),
}

/// A formula over named numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Formula(Vec<Step>);

/// What may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    Min,
    Max,
    Abs,
    Floor,
    Ceil,
    Exp,
    Sqrt,
    Log,
}

impl Function {
    const ALL: [(&'static str, Self); 8] = [
        ("min", Self::Min),
        ("max", Self::Max),
        ("abs", Self::Abs),
        ("floor", Self::Floor),
        ("ceil", Self::Ceil),
        ("exp", Self::Exp),
        ("sqrt", Self::Sqrt),
        ("log", Self::Log),
    ];
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(_, function)| function == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

/// What is done with the numbers that are there.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Number(f64),
    /// The number of the name with this place.
    Name(usize),
    Negate,
    Add,
    Subtract,
    Multiply,
    Divide,
    Power,
    Call(Function, usize),
}

impl Formula {
    /// Reads a formula over `names`.
    ///
    /// # Errors
    /// When it is none, too long, too deep, or names what is not there.
    pub fn read(text: &str, names: &[&str]) -> Result<Self, FormulaError> {
        if text.len() > LONGEST {
            return Err(FormulaError::Long);
        }
        let mut reader = Reader { text: text.chars().collect(), at: 0, depth: 0, names, steps: Vec::new() };
        reader.sum()?;
        reader.space();
        if reader.at < reader.text.len() { Err(FormulaError::Syntax(reader.at)) } else { Ok(Self(reader.steps)) }
    }

    /// Its value where the names stand for `values`; `None` where that is no finite number.
    #[must_use]
    pub fn value(&self, values: &[f64]) -> Option<f64> {
        let mut stack: Vec<f64> = Vec::new();
        for step in &self.0 {
            let value = match *step {
                Step::Number(number) => number,
                Step::Name(at) => *values.get(at)?,
                Step::Negate => -stack.pop()?,
                Step::Call(function, count) => {
                    let arguments = stack.split_off(stack.len().checked_sub(count)?);
                    let first = *arguments.first()?;
                    match function {
                        Function::Min => arguments.into_iter().fold(first, f64::min),
                        Function::Max => arguments.into_iter().fold(first, f64::max),
                        Function::Abs => first.abs(),
                        Function::Floor => first.floor(),
                        Function::Ceil => first.ceil(),
                        Function::Exp => first.exp(),
                        Function::Sqrt => first.sqrt(),
                        Function::Log => first.ln(),
                    }
                }
                Step::Add | Step::Subtract | Step::Multiply | Step::Divide | Step::Power => {
                    let (right, left) = (stack.pop()?, stack.pop()?);
                    match step {
                        Step::Add => left + right,
                        Step::Subtract => left - right,
                        Step::Multiply => left * right,
                        Step::Divide => left / right,
                        _ => left.powf(right),
                    }
                }
            };
            // Smaller and larger ones would hide it.
            if !value.is_finite() {
                return None;
            }
            stack.push(value);
        }
        stack.pop()
    }
}

/// A formula that is being read.
struct Reader<'a> {
    text: Vec<char>,
    at: usize,
    depth: usize,
    names: &'a [&'a str],
    steps: Vec<Step>,
}

impl Reader<'_> {
    fn space(&mut self) {
        while self.text.get(self.at).is_some_and(|c| c.is_whitespace()) {
            self.at += 1;
        }
    }

    /// Goes over the first of these that comes next.
    fn take(&mut self, any: &[char]) -> Option<char> {
        self.space();
        let next = self.text.get(self.at).copied().filter(|c| any.contains(c))?;
        self.at += 1;
        Some(next)
    }

    fn deeper(&mut self, part: impl FnOnce(&mut Self) -> Result<(), FormulaError>) -> Result<(), FormulaError> {
        if self.depth == DEEPEST {
            return Err(FormulaError::Deep);
        }
        self.depth += 1;
        part(self)?;
        self.depth -= 1;
        Ok(())
    }

    fn sum(&mut self) -> Result<(), FormulaError> {
        self.product()?;
        while let Some(sign) = self.take(&['+', '-']) {
            self.product()?;
            self.steps.push(if sign == '+' { Step::Add } else { Step::Subtract });
        }
        Ok(())
    }

    fn product(&mut self) -> Result<(), FormulaError> {
        self.signed()?;
        while let Some(sign) = self.take(&['*', '/']) {
            self.signed()?;
            self.steps.push(if sign == '*' { Step::Multiply } else { Step::Divide });
        }
        Ok(())
    }

    fn signed(&mut self) -> Result<(), FormulaError> {
        match self.take(&['+', '-']) {
            Some('-') => {
                self.deeper(Self::signed)?;
                self.steps.push(Step::Negate);
                Ok(())
            }
            Some(_) => self.deeper(Self::signed),
            None => self.power(),
        }
    }

    /// A power takes what is to its right first, and before a sign to its left.
    fn power(&mut self) -> Result<(), FormulaError> {
        self.atom()?;
        if self.take(&['^']).is_some() {
            self.deeper(Self::signed)?;
            self.steps.push(Step::Power);
        }
        Ok(())
    }

    fn atom(&mut self) -> Result<(), FormulaError> {
        if self.take(&['(']).is_some() {
            self.deeper(Self::sum)?;
            return self.take(&[')']).map(drop).ok_or(FormulaError::Syntax(self.at));
        }
        self.space();
        let begin = self.at;
        let next = self.text.get(begin).copied().ok_or(FormulaError::Syntax(begin))?;
        if next.is_ascii_digit() || next == '.' {
            return self.number(begin);
        }
        if !(next.is_alphabetic() || next == '_') {
            return Err(FormulaError::Syntax(begin));
        }
        while self.text.get(self.at).is_some_and(|c| c.is_alphanumeric() || *c == '_') {
            self.at += 1;
        }
        let word: String = self.text.iter().skip(begin).take(self.at - begin).collect();
        if self.take(&['(']).is_some() {
            return self.call(word);
        }
        let place = self.names.iter().position(|name| *name == word);
        self.steps.push(Step::Name(place.ok_or(FormulaError::Name(word))?));
        Ok(())
    }

    fn number(&mut self, begin: usize) -> Result<(), FormulaError> {
        let is = |c: Option<&char>, any: &[char]| c.is_some_and(|c| any.contains(c));
        while self.text.get(self.at).is_some_and(|c| c.is_ascii_digit() || *c == '.') {
            self.at += 1;
        }
        if is(self.text.get(self.at), &['e', 'E']) {
            self.at += 1;
            if is(self.text.get(self.at), &['+', '-']) {
                self.at += 1;
            }
            while self.text.get(self.at).is_some_and(char::is_ascii_digit) {
                self.at += 1;
            }
        }
        let digits: String = self.text.iter().skip(begin).take(self.at - begin).collect();
        let number = digits.parse().ok().filter(|number: &f64| number.is_finite());
        self.steps.push(Step::Number(number.ok_or(FormulaError::Syntax(begin))?));
        Ok(())
    }

    fn call(&mut self, word: String) -> Result<(), FormulaError> {
        let function = Function::ALL.iter().find(|(name, _)| *name == word).map(|(_, function)| *function);
        let function = function.ok_or(FormulaError::Function(word))?;
        let mut count = 0;
        loop {
            self.deeper(Self::sum)?;
            count += 1;
            match self.take(&[',', ')']) {
                Some(',') => {}
                Some(_) => break,
                None => return Err(FormulaError::Syntax(self.at)),
            }
        }
        if count > 1 && !matches!(function, Function::Min | Function::Max) {
            return Err(FormulaError::Arguments(function, count));
        }
        self.steps.push(Step::Call(function, count));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Option<f64> {
        Formula::read(text, &["a", "b_2"]).unwrap().value(&[0.5, 4.0])
    }

    #[test]
    fn formulas_are_worked_out_as_in_school() {
        for (text, wanted) in [
            ("1 + 2 * 3", 7.0),
            ("(1 + 2) * 3", 9.0),
            ("8 / 4 / 2", 1.0),
            ("5 - 3 - 1", 1.0),
            ("2 ^ 3 ^ 2", 512.0),
            ("-2 ^ 2", -4.0),
            ("2 * -3", -6.0),
            ("--a", 0.5),
            ("0.25 * a + 0.75 * b_2", 3.125),
            ("max(a, b_2, 1) - min(a, 1)", 3.5),
            ("sqrt(b_2) + abs(-1) + floor(1.7) + ceil(1.2)", 6.0),
            ("log(exp(a))", 0.5),
            ("1.5e1 + .5", 15.5),
        ] {
            assert!((value(text).unwrap() - wanted).abs() < 1e-12, "{text}: {:?}", value(text));
        }
    }

    #[test]
    fn what_is_no_number_is_none() {
        for text in ["1 / 0", "log(0)", "sqrt(-1)", "exp(1000)", "min(1, 1 / 0)", "0 / 0"] {
            assert_eq!(value(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_formula_is_told() {
        let read = |text: &str| Formula::read(text, &["a"]).unwrap_err();
        assert_eq!(read("a + c"), FormulaError::Name("c".into()));
        assert_eq!(read("sin(a)"), FormulaError::Function("sin".into()));
        assert_eq!(read("abs(a, a)"), FormulaError::Arguments(Function::Abs, 2));
        assert_eq!(read(&"(".repeat(1000)), FormulaError::Deep);
        assert_eq!(read(&"-".repeat(1000)), FormulaError::Deep);
        assert_eq!(read(&"2^".repeat(500)), FormulaError::Deep);
        assert_eq!(read(&"abs(".repeat(250)), FormulaError::Deep);
        assert_eq!(read(&"a+".repeat(1000)), FormulaError::Long);
        for (text, at) in
            [("", 0), ("a +", 3), ("a a", 2), ("(a", 2), ("1.2.3", 0), ("a % a", 2), ("max()", 4), ("1e999", 0)]
        {
            assert_eq!(read(text), FormulaError::Syntax(at), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_formula_or_none(text in "[-+*/^(),. a0-9emax]{0,60}") {
            if let Ok(formula) = Formula::read(&text, &["a"]) {
                proptest::prop_assert!(formula.value(&[0.3]).is_none_or(f64::is_finite));
            }
        }
    }
}
