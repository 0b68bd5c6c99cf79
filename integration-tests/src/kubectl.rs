//! The stock kubectl: what it is told and what it answers.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// kubectl with a kubeconfig.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

/// What a call of kubectl came to.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// Exit status.
    pub code: i32,
}

impl Kubectl {
    pub(crate) fn new(program: PathBuf, kubeconfig: PathBuf) -> Self {
        Self { program, kubeconfig }
    }

    /// The command, to add to and start.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(words(line));
        // Its caches are not those of other clusters.
        command.env("HOME", self.kubeconfig.parent().unwrap_or(&self.kubeconfig));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs kubectl to its end, whatever that is.
    ///
    /// # Panics
    /// When there is no kubectl.
    pub fn call(&self, line: &str) -> Answer {
        self.call_with(line, "")
    }

    /// The same with standard input.
    ///
    /// # Panics
    /// When there is no kubectl.
    pub fn call_with(&self, line: &str, input: &str) -> Answer {
        let mut command = self.command(line);
        if !input.is_empty() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().expect("start kubectl");
        if let Some(mut stdin) = child.stdin.take() {
            // kubectl may end before it has read everything; its answer says why.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().expect("wait for kubectl");
        Answer {
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        }
    }

    /// Runs kubectl and answers its output.
    ///
    /// # Panics
    /// When it fails, with what it said.
    pub fn run(&self, line: &str) -> String {
        self.run_with(line, "")
    }

    /// The same with standard input.
    ///
    /// # Panics
    /// When it fails, with what it said.
    pub fn run_with(&self, line: &str, input: &str) -> String {
        let answer = self.call_with(line, input);
        assert!(
            answer.code == 0,
            "kubectl {line}: exit {}\n{}{}",
            answer.code,
            answer.out,
            answer.err
        );
        answer.out
    }

    /// Runs kubectl, which must fail, and answers what it complains of.
    ///
    /// # Panics
    /// When it succeeds.
    pub fn fail(&self, line: &str) -> String {
        let answer = self.call(line);
        assert!(answer.code != 0, "kubectl {line} should fail, but said {}", answer.out);
        answer.err
    }

    /// Starts kubectl to run beside the test.
    ///
    /// # Panics
    /// When there is no kubectl.
    pub fn start(&self, line: &str) -> Child {
        self.command(line).spawn().expect("start kubectl")
    }
}

/// Splits a line at spaces; single quotes keep a part together.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quoted, mut begun) = (String::new(), false, false);
    for character in line.chars() {
        match character {
            '\'' => {
                quoted = !quoted;
                begun = true;
            }
            ' ' if !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            other => {
                word.push(other);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn quotes_keep_words_together() {
        assert_eq!(
            words("get pods -o 'jsonpath={.a} {.b}' ''"),
            ["get", "pods", "-o", "jsonpath={.a} {.b}", ""]
        );
    }
}
