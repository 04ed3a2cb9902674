//! A tiny WGSL preprocessor: imports, conditions, unrolled loops, integer substitution.
//!
//! ```text
//! #import activation            shaders/shared/activation.wgsl, once
//! #if BIAS && LANES > 0         defined and not 0; also ! || == != < > ( )
//! #else / #endif
//! #for i in 0..LANES            the lines below, LANES times
//! let x${i} = a[${i*4}u];       ${…} is an integer expression; in it WIDTH[i] is the name
//!                               WIDTH followed by the value of i: WIDTH0, WIDTH1, …
//! #endfor
//! ```

use std::collections::{BTreeMap, HashSet};

/// Names and their integer values. An absent name is 0.
pub type Defines = BTreeMap<&'static str, u32>;

const SHARED: &[(&str, &str)] = &[
    ("activation", include_str!("../../shaders/shared/activation.wgsl")),
    ("attention", include_str!("../../shaders/shared/attention.wgsl")),
    ("attention_bias", include_str!("../../shaders/shared/attention_bias.wgsl")),
    ("attention_dout", include_str!("../../shaders/shared/attention_dout.wgsl")),
    ("attention_keys", include_str!("../../shaders/shared/attention_keys.wgsl")),
    ("attention_padded", include_str!("../../shaders/shared/attention_padded.wgsl")),
    ("attention_quads", include_str!("../../shaders/shared/attention_quads.wgsl")),
    ("centres", include_str!("../../shaders/shared/centres.wgsl")),
    ("functions", include_str!("../../shaders/shared/functions.wgsl")),
    ("channels", include_str!("../../shaders/shared/channels.wgsl")),
    ("group", include_str!("../../shaders/shared/group.wgsl")),
    ("heads", include_str!("../../shaders/shared/heads.wgsl")),
    ("contrast", include_str!("../../shaders/shared/contrast.wgsl")),
    ("heads_mask", include_str!("../../shaders/shared/heads_mask.wgsl")),
    ("lstm", include_str!("../../shaders/shared/lstm.wgsl")),
    ("mask", include_str!("../../shaders/shared/mask.wgsl")),
    ("normal", include_str!("../../shaders/shared/normal.wgsl")),
    ("numbers", include_str!("../../shaders/shared/numbers.wgsl")),
    ("optim", include_str!("../../shaders/shared/optim.wgsl")),
    ("pairs", include_str!("../../shaders/shared/pairs.wgsl")),
    ("quad", include_str!("../../shaders/shared/quad.wgsl")),
    ("rng", include_str!("../../shaders/shared/rng.wgsl")),
    ("row", include_str!("../../shaders/shared/row.wgsl")),
    ("segments", include_str!("../../shaders/shared/segments.wgsl")),
    ("segments_range", include_str!("../../shaders/shared/segments_range.wgsl")),
    ("step", include_str!("../../shaders/shared/step.wgsl")),
    ("targets", include_str!("../../shaders/shared/targets.wgsl")),
];

/// Where a line of an expanded text was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The shared file; none for the text itself.
    pub shared: Option<&'static str>,
    /// Line, from 1.
    pub line: usize,
}

/// Expands `source`. The error names the line.
pub fn expand(source: &str, defines: &Defines) -> Result<String, String> {
    expand_lines(source, defines).map(|(text, _)| text)
}

/// As [`expand`], and where each of the lines comes from.
pub fn expand_lines(source: &str, defines: &Defines) -> Result<(String, Vec<Origin>), String> {
    let mut state = Expander {
        vars: variables(defines.iter().map(|(k, v)| (*k, i64::from(*v)))),
        imported: HashSet::new(),
        shared: None,
        out: String::new(),
        origins: Vec::new(),
        turns: 0,
        depth: 0,
    };
    let lines: Vec<&str> = source.lines().collect();
    state.block(&lines, 0)?;
    Ok((state.out, state.origins))
}

/// The value of an integer expression over `names`.
///
/// # Errors
/// What cannot be read; a name that is not there.
pub fn evaluate<'a>(
    text: &str,
    names: impl IntoIterator<Item = (&'a str, i64)>,
) -> Result<i64, String> {
    let (vars, tokens) = (variables(names), tokenize(text)?);
    let is_name = |t: &&String| t.starts_with(|c: char| c.is_alphabetic() || c == '_');
    if let Some(name) = tokens.iter().filter(is_name).find(|t| !vars.contains_key(*t)) {
        return Err(format!("there is no '{name}'"));
    }
    value(text, &tokens, &vars)
}

fn variables<'a>(names: impl IntoIterator<Item = (&'a str, i64)>) -> BTreeMap<String, i64> {
    names.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

fn value(text: &str, tokens: &[String], vars: &BTreeMap<String, i64>) -> Result<i64, String> {
    if tokens.len() > MOST_WORDS {
        return Err(format!("an expression of more than {MOST_WORDS} words"));
    }
    let mut parser = Parser { tokens, at: 0, vars };
    let value = parser.expression(0)?;
    if parser.at < tokens.len() {
        return Err(format!("cannot read '{text}'"));
    }
    Ok(value)
}

struct Expander {
    vars: BTreeMap<String, i64>,
    imported: HashSet<String>,
    /// The file that is being read.
    shared: Option<&'static str>,
    out: String,
    origins: Vec<Origin>,
    /// Turns of loops so far.
    turns: usize,
    /// Blocks that are being read.
    depth: usize,
}

/// What a text may become, in bytes.
const LONGEST: usize = 4 << 20;
/// Turns of all loops of a text.
const MOST_TURNS: usize = 100_000;
/// Blocks within blocks.
const DEEPEST: usize = 64;
/// Words of an expression.
const MOST_WORDS: usize = 256;

impl Expander {
    fn block(&mut self, lines: &[&str], first: usize) -> Result<(), String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("line {first}: more than {DEEPEST} blocks within one another"));
        }
        let done = self.inside(lines, first);
        self.depth -= 1;
        done
    }

    fn inside(&mut self, lines: &[&str], first: usize) -> Result<(), String> {
        let mut i = 0;
        while i < lines.len() {
            let at = |message: String| format!("line {}: {message}", first + i + 1);
            let trimmed = lines[i].trim();
            if let Some(name) = trimmed.strip_prefix("#import ") {
                let name = name.trim();
                if self.imported.insert(name.to_string()) {
                    let (shared, text) =
                        SHARED.iter().find(|(n, _)| *n == name).ok_or_else(|| {
                            let names: Vec<_> = SHARED.iter().map(|(n, _)| *n).collect();
                            let there = names.join(", ");
                            at(format!("no shared shader '{name}'; there are {there}"))
                        })?;
                    let inner: Vec<&str> = text.lines().collect();
                    let outer = self.shared.replace(shared);
                    self.block(&inner, 0).map_err(|e| format!("{name}: {e}"))?;
                    self.shared = outer;
                }
                i += 1;
            } else if let Some(condition) = trimmed.strip_prefix("#if ") {
                let (middle, end) = matching(lines, i, "#if ", "#endif").map_err(at)?;
                let yes = self.eval(condition).map_err(at)? != 0;
                let split = middle.unwrap_or(end);
                if yes {
                    self.block(&lines[i + 1..split], first + i + 1)?;
                } else if middle.is_some() {
                    self.block(&lines[split + 1..end], first + split + 1)?;
                }
                i = end + 1;
            } else if let Some(header) = trimmed.strip_prefix("#for ") {
                let (_, end) = matching(lines, i, "#for ", "#endfor").map_err(at)?;
                let (name, range) =
                    header.split_once(" in ").ok_or_else(|| at("#for i in a..b".into()))?;
                let (from, to) =
                    range.split_once("..").ok_or_else(|| at("#for i in a..b".into()))?;
                let (from, to) = (self.eval(from).map_err(at)?, self.eval(to).map_err(at)?);
                let name = name.trim().to_string();
                let outer = self.vars.get(&name).copied();
                for value in from..to {
                    self.turns += 1;
                    if self.turns > MOST_TURNS {
                        return Err(at(format!("#for: more than {MOST_TURNS} turns in all")));
                    }
                    self.vars.insert(name.clone(), value);
                    self.block(&lines[i + 1..end], first + i + 1)?;
                }
                match outer {
                    Some(value) => self.vars.insert(name, value),
                    None => self.vars.remove(&name),
                };
                i = end + 1;
            } else {
                self.line(lines[i]).map_err(at)?;
                self.origins.push(Origin { shared: self.shared, line: first + i + 1 });
                i += 1;
            }
        }
        Ok(())
    }

    fn line(&mut self, mut line: &str) -> Result<(), String> {
        if self.out.len() + line.len() > LONGEST {
            return Err(format!("the text becomes longer than {} MiB", LONGEST >> 20));
        }
        while let Some(start) = line.find("${") {
            let end = line[start..].find('}').ok_or("'${' without '}'")? + start;
            self.out.push_str(&line[..start]);
            let value = self.eval(&line[start + 2..end])?;
            self.out.push_str(&value.to_string());
            line = &line[end + 1..];
        }
        self.out.push_str(line);
        self.out.push('\n');
        Ok(())
    }

    fn eval(&self, text: &str) -> Result<i64, String> {
        value(text, &tokenize(text)?, &self.vars)
    }
}

/// The line of the matching end, and of the `#else` before it.
fn matching(
    lines: &[&str],
    start: usize,
    open: &str,
    close: &str,
) -> Result<(Option<usize>, usize), String> {
    let (mut depth, mut middle) = (0, None);
    for (i, line) in lines.iter().enumerate().skip(start + 1) {
        let line = line.trim();
        if line.starts_with(open) {
            depth += 1;
        } else if line == close {
            if depth == 0 {
                return Ok((middle, i));
            }
            depth -= 1;
        } else if line == "#else" && depth == 0 {
            middle = Some(i);
        }
    }
    Err(format!("no {close}"))
}

fn tokenize(text: &str) -> Result<Vec<String>, String> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        let start = i;
        if c.is_whitespace() {
            i += 1;
            continue;
        } else if c.is_alphanumeric() || c == '_' {
            while i < chars.len() && (chars[i].is_alphanumeric() || chars[i] == '_') {
                i += 1;
            }
        } else {
            let two: String = chars[i..].iter().take(2).collect();
            let known = ["&&", "||", "==", "!=", "<=", ">="].contains(&two.as_str());
            if !known && !"+-*/%()<>![]".contains(c) {
                return Err(format!("unexpected '{c}'"));
            }
            i += if known { 2 } else { 1 };
        }
        tokens.push(chars[start..i].iter().collect());
    }
    Ok(tokens)
}

struct Parser<'a> {
    tokens: &'a [String],
    at: usize,
    vars: &'a BTreeMap<String, i64>,
}

/// Operators by how tightly they bind.
const LEVELS: &[&[&str]] =
    &[&["||"], &["&&"], &["==", "!=", "<=", ">=", "<", ">"], &["+", "-"], &["*", "/", "%"]];

impl Parser<'_> {
    fn expression(&mut self, level: usize) -> Result<i64, String> {
        let Some(operators) = LEVELS.get(level) else { return self.atom() };
        let mut left = self.expression(level + 1)?;
        while let Some(op) = self.tokens.get(self.at).filter(|t| operators.contains(&t.as_str())) {
            self.at += 1;
            let right = self.expression(level + 1)?;
            left = match op.as_str() {
                "||" => i64::from(left != 0 || right != 0),
                "&&" => i64::from(left != 0 && right != 0),
                "==" => i64::from(left == right),
                "!=" => i64::from(left != right),
                "<=" => i64::from(left <= right),
                ">=" => i64::from(left >= right),
                "<" => i64::from(left < right),
                ">" => i64::from(left > right),
                "+" => left.checked_add(right).ok_or("a number beyond 64 bits")?,
                "-" => left.checked_sub(right).ok_or("a number beyond 64 bits")?,
                "*" => left.checked_mul(right).ok_or("a number beyond 64 bits")?,
                "/" => left.checked_div(right).ok_or("division by zero")?,
                _ => left.checked_rem(right).ok_or("division by zero")?,
            };
        }
        Ok(left)
    }

    fn atom(&mut self) -> Result<i64, String> {
        let token = self.tokens.get(self.at).ok_or("an expression ends early")?;
        self.at += 1;
        match token.as_str() {
            "!" => Ok(i64::from(self.atom()? == 0)),
            "(" => {
                let value = self.expression(0)?;
                self.at += 1;
                match self.tokens.get(self.at - 1).map(String::as_str) {
                    Some(")") => Ok(value),
                    _ => Err("'(' without ')'".into()),
                }
            }
            t if t.starts_with(|c: char| c.is_ascii_digit()) => {
                t.parse().map_err(|_| format!("'{t}' is no number"))
            }
            t if t.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                let mut name = t.to_string();
                if self.tokens.get(self.at).is_some_and(|t| t == "[") {
                    self.at += 1;
                    name += &self.expression(0)?.to_string();
                    self.at += 1;
                    if self.tokens.get(self.at - 1).is_none_or(|t| t != "]") {
                        return Err("'[' without ']'".into());
                    }
                }
                Ok(self.vars.get(&name).copied().unwrap_or(0))
            }
            t => Err(format!("unexpected '{t}'")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_loops_and_sums() {
        let source =
            "#if A && !B\nyes\n#else\nno\n#endif\n#for i in 0..A+1\nx${i*4 + (1)}\n#endfor";
        let text = expand(source, &Defines::from([("A", 1)])).unwrap();
        assert_eq!(text, "yes\nx1\nx5\n");
        let text = expand(source, &Defines::from([("A", 1), ("B", 2)])).unwrap();
        assert_eq!(text, "no\nx1\nx5\n");
    }

    #[test]
    fn names_are_indexed() {
        let source = "#for i in 0..3\n#if W[i]\nw${W[i] * 2}\n#endif\n#endfor";
        let text = expand(source, &Defines::from([("W0", 1), ("W2", 3)])).unwrap();
        assert_eq!(text, "w2\nw6\n");
        assert!(expand("${W[0}", &Defines::new()).unwrap_err().contains("']'"));
    }

    #[test]
    fn nested_blocks_keep_their_own_else() {
        let source = "#if A\n#if B\nab\n#else\na\n#endif\n#else\nnone\n#endif";
        assert_eq!(expand(source, &Defines::from([("A", 1)])).unwrap(), "a\n");
        assert_eq!(expand(source, &Defines::new()).unwrap(), "none\n");
    }

    #[test]
    fn lines_keep_their_origin() {
        let source = "#import mask\na\n#if A\nb\n#endif\n#for i in 0..2\nc\n#endfor";
        let (text, origins) = expand_lines(source, &Defines::from([("A", 1)])).unwrap();
        assert_eq!(text.lines().count(), origins.len());
        assert_eq!(origins[0], Origin { shared: Some("mask"), line: 1 });
        let own: Vec<usize> =
            origins.iter().filter(|o| o.shared.is_none()).map(|o| o.line).collect();
        assert_eq!(own, [2, 4, 7, 7]);
    }

    #[test]
    fn expressions_over_names() {
        let names = [("n", 130), ("WG", 64)];
        assert_eq!(evaluate("(n + WG - 1) / WG", names), Ok(3));
        assert_eq!(evaluate("(n > 100) * 7", names), Ok(7));
        assert!(evaluate("n / m", names).unwrap_err().contains("'m'"));
        assert!(evaluate("n 2", names).is_err() && evaluate("", names).is_err());
        assert!(evaluate("n / (WG - 64)", names).unwrap_err().contains("zero"));
    }

    #[test]
    fn what_would_not_end_is_refused_by_its_limit() {
        let fails = |text: &str| expand(text, &Defines::new()).unwrap_err();
        let endless = "#for i in 0..4294967295\n#endfor";
        assert!(fails(endless).contains("100000 turns"));
        let nested = "#for i in 0..60\n".repeat(5) + "x\n" + &"#endfor\n".repeat(5);
        assert!(fails(&nested).contains("100000 turns"));
        let long = format!("#for i in 0..99999\n{}\n#endfor", "x".repeat(100));
        assert!(fails(&long).contains("4 MiB"));
        let deep = "#if 1\n".repeat(100) + &"#endif\n".repeat(100);
        assert!(fails(&deep).contains("64 blocks"));
        assert!(fails(&format!("${{{}}}", "(".repeat(9999))).contains("256 words"));
        assert!(fails("${9223372036854775807 + 1}").contains("64 bits"));
    }

    #[test]
    fn errors_name_the_line() {
        assert!(expand("a\n#if A\n", &Defines::new()).unwrap_err().contains("line 2"));
        assert!(expand("a\n${A +}", &Defines::new()).unwrap_err().contains("line 2"));
        assert!(expand("#import nothing", &Defines::new()).unwrap_err().contains("nothing"));
    }
}
