//! Text to tokens.

use std::sync::Arc;

use crate::ast::Literal;
use crate::error::Issue;

/// What a token is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    Literal(Literal),
    /// An integer without sign, which may be one too large for itself: only with a minus before it it fits.
    Int(u64),
    Ident(Arc<str>),
    /// An operator or a bracket, and the word `in`.
    Op(&'static str),
    End,
}

/// A token, where it begins and where it ends.
#[derive(Debug, Clone)]
pub(crate) struct Spanned {
    pub token: Token,
    pub at: u32,
    pub end: u32,
}

const OPERATORS: &[&str] = &[
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":", "+", "*",
    "/", "%",
];

/// All tokens, with [`Token::End`] at the end.
pub(crate) fn tokens(source: &str) -> Result<Vec<Spanned>, Issue> {
    let mut lexer = Lexer { source, at: 0 };
    let mut out = Vec::new();
    loop {
        lexer.skip_space();
        let at = lexer.at;
        let token = lexer.next()?;
        let done = token == Token::End;
        out.push(Spanned {
            token,
            at: offset(at),
            end: offset(lexer.at),
        });
        if done {
            return Ok(out);
        }
    }
}

fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn skip_space(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{c}']);
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    fn fail(&self, at: usize, message: impl Into<String>) -> Issue {
        Issue {
            at: offset(at),
            message: message.into(),
        }
    }

    fn next(&mut self) -> Result<Token, Issue> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return Ok(Token::End);
        };
        if let Some((prefix, quote)) = string_start(rest) {
            return self.string(prefix, quote);
        }
        if first == '_' || first.is_ascii_alphabetic() {
            let end = rest
                .find(|c: char| c != '_' && !c.is_ascii_alphanumeric())
                .unwrap_or(rest.len());
            let word: Arc<str> = rest[..end].into();
            self.at += end;
            return Ok(match &*word {
                "true" => Token::Literal(Literal::Bool(true)),
                "false" => Token::Literal(Literal::Bool(false)),
                "null" => Token::Literal(Literal::Null),
                "in" => Token::Op("in"),
                _ => Token::Ident(word),
            });
        }
        let digit_after_point = first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit());
        if first.is_ascii_digit() || digit_after_point {
            return self.number();
        }
        match OPERATORS.iter().find(|op| rest.starts_with(**op)) {
            Some(op) => {
                self.at += op.len();
                Ok(Token::Op(op))
            }
            None => Err(self.fail(self.at, format!("Syntax error: token recognition error at: '{first}'"))),
        }
    }

    fn number(&mut self) -> Result<Token, Issue> {
        let start = self.at;
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let digits = |from: usize| from + bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
        let hex = rest.starts_with("0x") && bytes.get(2).is_some_and(u8::is_ascii_hexdigit);
        let (mut end, mut float) = if hex {
            (
                2 + bytes[2..].iter().take_while(|b| b.is_ascii_hexdigit()).count(),
                false,
            )
        } else {
            (digits(0), false)
        };
        if !hex {
            if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
                float = true;
                end = digits(end + 1);
            }
            if matches!(bytes.get(end), Some(b'e' | b'E')) {
                let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
                if bytes.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
                    float = true;
                    end = digits(end + 1 + sign);
                }
            }
        }
        let text = &rest[..end];
        let unsigned = !float && matches!(bytes.get(end), Some(b'u' | b'U'));
        let length = end + usize::from(unsigned);
        let token = if float {
            text.parse().ok().map(|d| Token::Literal(Literal::Double(d)))
        } else {
            let number = match hex {
                true => u64::from_str_radix(&text[2..], 16),
                false => text.parse(),
            };
            number.ok().map(|n| match unsigned {
                true => Token::Literal(Literal::Uint(n)),
                false => Token::Int(n),
            })
        };
        let kind = match (float, unsigned) {
            (true, _) => "double",
            (_, true) => "uint",
            _ => "int",
        };
        let token = token.ok_or_else(|| self.fail(start, format!("invalid {kind} literal")))?;
        self.at += length;
        Ok(token)
    }

    fn string(&mut self, prefix: &'static str, quote: &'static str) -> Result<Token, Issue> {
        let start = self.at;
        let (raw, bytes) = (prefix.contains('r'), prefix.contains('b'));
        self.at += prefix.len() + quote.len();
        let mut out: Vec<u8> = Vec::new();
        loop {
            let rest = &self.source[self.at..];
            if rest.starts_with(quote) {
                self.at += quote.len();
                break;
            }
            let Some(c) = rest.chars().next() else {
                return Err(self.unterminated(start));
            };
            if (c == '\n' || c == '\r') && quote.len() == 1 {
                return Err(self.unterminated(start));
            }
            self.at += c.len_utf8();
            if c == '\\' && !raw {
                self.escape(&mut out, bytes)?;
            } else {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        if bytes {
            return Ok(Token::Literal(Literal::Bytes(out.into())));
        }
        match String::from_utf8(out) {
            Ok(text) => Ok(Token::Literal(Literal::String(text.into()))),
            Err(_) => Err(self.fail(start, "invalid UTF-8 in string literal")),
        }
    }

    fn unterminated(&self, start: usize) -> Issue {
        let shown: String = self.source[start..].chars().take(64).collect();
        self.fail(start, format!("Syntax error: token recognition error at: '{shown}'"))
    }

    /// What follows a backslash.
    fn escape(&mut self, out: &mut Vec<u8>, bytes: bool) -> Result<(), Issue> {
        let start = self.at - 1;
        let bad = |this: &Self| this.fail(start, "unable to unescape string");
        let Some(c) = self.rest().chars().next() else {
            return Err(bad(self));
        };
        self.at += c.len_utf8();
        let plain = match c {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' | '?' | '"' | '\'' | '`' => c as u8,
            'x' | 'X' => return self.code(2, 16, bytes, out).ok_or_else(|| bad(self)),
            'u' if !bytes => return self.code(4, 16, false, out).ok_or_else(|| bad(self)),
            'U' if !bytes => return self.code(8, 16, false, out).ok_or_else(|| bad(self)),
            '0'..='3' => {
                self.at -= 1;
                return self.code(3, 8, bytes, out).ok_or_else(|| bad(self));
            }
            _ => return Err(bad(self)),
        };
        out.push(plain);
        Ok(())
    }

    fn code(&mut self, digits: usize, radix: u32, byte: bool, out: &mut Vec<u8>) -> Option<()> {
        let text = self.rest().get(..digits)?;
        if !text.chars().all(|c| c.is_digit(radix)) {
            return None;
        }
        let number = u32::from_str_radix(text, radix).ok()?;
        self.at += digits;
        if byte {
            out.push(u8::try_from(number).ok()?);
        } else {
            out.extend_from_slice(char::from_u32(number)?.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Some(())
    }
}

/// The prefix (lower case) and the quote of a string literal.
fn string_start(rest: &str) -> Option<(&'static str, &'static str)> {
    let letters = rest
        .bytes()
        .take(2)
        .take_while(|b| matches!(b, b'r' | b'R' | b'b' | b'B'))
        .count();
    let prefix = match rest[..letters].to_ascii_lowercase().as_str() {
        "" => "",
        "r" => "r",
        "b" => "b",
        "rb" => "rb",
        "br" => "br",
        _ => return None,
    };
    let quote = ["\"\"\"", "'''", "\"", "'"]
        .into_iter()
        .find(|quote| rest[letters..].starts_with(quote))?;
    Some((prefix, quote))
}
