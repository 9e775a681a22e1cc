//! A pickle's stack machine, without the part that calls anything: what a pickle names and applies is handed to a [`Host`], which knows
//! a few names. What any other name makes is an opaque value: it is carried about and never looked into. Values lie in a list and refer
//! to each other by number, so that cycles and depth do no harm.

use std::collections::HashMap;

use super::TorchError;

/// Bytes of a name, and different names that the host does not know. A pickle can name one value as often as it has bytes; copies of
/// long ones would fill the memory.
pub const LONGEST: usize = 256;
const MOST_KINDS: usize = 256;

/// Bytes that the values of a pickle may take, about. A network of a thousand tensors takes 3 MiB, a list of a million numbers 60 MiB.
/// Each byte of a pickle can make a value of a hundred.
const MOST_MEMORY: usize = 1 << 30;

/// A value by number.
pub type Id = usize;

#[derive(Clone, Debug)]
pub enum Value<T> {
    None,
    Bool(bool),
    Int(i128),
    /// A fraction, bytes, or a whole number of more than 128 bits: nobody asks for its value.
    Plain,
    Text(String),
    Tuple(Vec<Id>),
    /// A list or a set.
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// What the host makes of names and their application.
    Host(T),
    /// A name that the host does not know, by its number in [`Pickle::kinds`], or what this name makes.
    Opaque(usize),
}

/// Gives meaning to what a pickle does not contain.
pub trait Host {
    type Thing;
    /// What `module.name` is; none for a name that it does not know.
    fn global(&self, name: &str) -> Option<Self::Thing>;
    /// What `function` makes of `args`.
    ///
    /// # Errors
    /// Arguments that it does not take.
    fn apply(&self, p: &Pickle<Self::Thing>, function: &Self::Thing, args: &[Id]) -> Result<Value<Self::Thing>, TorchError>;
    /// What the pickle knows by the persistent `id`.
    ///
    /// # Errors
    /// Another kind of thing than the host keeps.
    fn persistent(&mut self, p: &Pickle<Self::Thing>, id: &[Id]) -> Result<Value<Self::Thing>, TorchError>;
}

/// A pickle's values once it has been read.
#[derive(Debug)]
pub struct Pickle<T> {
    values: Vec<Value<T>>,
    root: Id,
    /// Names that the host does not know, in the order of their first use.
    kinds: Vec<String>,
    /// Where the bytes after it begin.
    pub end: usize,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn broken(&self, why: &str) -> TorchError {
        TorchError::Broken { at: self.at, why: why.into() }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], TorchError> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| self.broken("the end in the middle of a pickle"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// A little-endian unsigned number of `n` bytes, at most 8.
    fn unsigned(&mut self, n: usize) -> Result<usize, TorchError> {
        let number = self.take(n)?.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        usize::try_from(number).map_err(|_| self.broken("a length that no file has"))
    }

    /// A little-endian number of `n` bytes in two's complement.
    fn signed<T>(&mut self, n: usize) -> Result<Value<T>, TorchError> {
        let bytes = self.take(n)?;
        if n > 16 {
            return Ok(Value::Plain);
        }
        let start = if bytes.last().is_some_and(|top| top & 0x80 != 0) { -1 } else { 0 };
        Ok(Value::Int(bytes.iter().rev().fold(start, |number, byte| number << 8 | i128::from(*byte))))
    }

    fn text(&mut self, n: usize) -> Result<String, TorchError> {
        Ok(String::from_utf8_lossy(self.take(n)?).into_owned())
    }

    fn line(&mut self) -> Result<String, TorchError> {
        let length = self.bytes[self.at..].iter().position(|byte| *byte == b'\n');
        let length = length.ok_or_else(|| self.broken("a name without an end"))?;
        let line = self.text(length)?;
        self.at += 1;
        Ok(line)
    }
}

/// The machine while it runs.
struct Stack<T> {
    pickle: Pickle<T>,
    items: Vec<Id>,
    /// Heights of `items` where something begins.
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
    /// Bytes that all that was ever made takes.
    memory: usize,
}

/// An operation on a stack that lacks what it needs.
struct Empty;

impl<T> Stack<T> {
    fn push(&mut self, value: Value<T>) {
        self.memory += size_of::<Value<T>>() + value.heap();
        self.refer(self.pickle.values.len());
        self.pickle.values.push(value);
    }

    /// Puts a value that is there already onto the stack.
    fn refer(&mut self, id: Id) {
        self.memory += size_of::<Id>();
        self.items.push(id);
    }

    fn pop(&mut self) -> Result<Id, Empty> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.items.len() <= floor {
            return Err(Empty);
        }
        self.items.pop().ok_or(Empty)
    }

    fn top(&self) -> Result<Id, Empty> {
        self.items.last().copied().ok_or(Empty)
    }

    fn pop_text(&mut self) -> Result<String, Empty> {
        let id = self.pop()?;
        match &self.pickle.values[id] {
            Value::Text(text) if text.len() <= LONGEST => Ok(text.clone()),
            _ => Err(Empty),
        }
    }

    /// The items since the last mark.
    fn pop_marked(&mut self) -> Result<Vec<Id>, Empty> {
        let mark = self.marks.pop().filter(|mark| *mark <= self.items.len()).ok_or(Empty)?;
        Ok(self.items.split_off(mark))
    }

    fn pop_last(&mut self, n: usize) -> Result<Vec<Id>, Empty> {
        let start = self.items.len().checked_sub(n).ok_or(Empty)?;
        Ok(self.items.split_off(start))
    }

    fn append(&mut self, items: Vec<Id>) -> Result<(), Empty> {
        self.memory += items.len() * size_of::<Id>();
        let list = self.top()?;
        match &mut self.pickle.values[list] {
            Value::List(list) => list.extend(items),
            Value::Opaque(_) => {}
            _ => return Err(Empty),
        }
        Ok(())
    }

    fn set(&mut self, items: Vec<Id>) -> Result<(), Empty> {
        self.memory += items.len() * size_of::<Id>();
        let dict = self.top()?;
        match &mut self.pickle.values[dict] {
            Value::Dict(entries) => entries.extend(pairs(&items)),
            // Of whatever class, what is filled like a dict is one.
            object @ Value::Opaque(_) => *object = Value::Dict(pairs(&items).collect()),
            _ => return Err(Empty),
        }
        Ok(())
    }

    /// The number of the kind `name`.
    fn kind(&mut self, name: String) -> Result<usize, TorchError> {
        let kinds = &mut self.pickle.kinds;
        let known = kinds.iter().position(|kind| *kind == name);
        if known.is_none() && (kinds.len() == MOST_KINDS || name.len() > 2 * LONGEST) {
            return Err(TorchError::Content("names more, or longer ones, than any PyTorch file".into()));
        }
        Ok(known.unwrap_or_else(|| {
            kinds.push(name);
            kinds.len() - 1
        }))
    }
}

fn pairs(items: &[Id]) -> impl Iterator<Item = (Id, Id)> {
    items.chunks_exact(2).map(|pair| (pair[0], pair[1]))
}

impl<T> Value<T> {
    /// Bytes beside its own, at most.
    fn heap(&self) -> usize {
        match self {
            Value::Text(text) => text.len(),
            Value::Tuple(items) | Value::List(items) => items.len() * size_of::<Id>(),
            Value::Dict(entries) => entries.len() * size_of::<(Id, Id)>(),
            // A name, and a few numbers.
            Value::Host(_) => 2 * LONGEST,
            _ => 0,
        }
    }
}

impl<T> Pickle<T> {
    /// Runs the pickle that begins at byte `start`.
    ///
    /// # Errors
    /// What the host refuses; an operation that is not among those of protocols 2 to 5; the end before a stop; values that would fill
    /// the memory.
    pub fn read<H: Host<Thing = T>>(bytes: &[u8], start: usize, host: &mut H) -> Result<Pickle<T>, TorchError> {
        Pickle::read_within(MOST_MEMORY, bytes, start, host)
    }

    fn read_within<H: Host<Thing = T>>(most: usize, bytes: &[u8], start: usize, host: &mut H) -> Result<Pickle<T>, TorchError> {
        let mut r = Reader { bytes, at: start.min(bytes.len()) };
        let pickle = Pickle { values: Vec::new(), root: 0, kinds: Vec::new(), end: 0 };
        let mut s = Stack { pickle, items: Vec::new(), marks: Vec::new(), memo: HashMap::new(), memory: 0 };
        loop {
            let at = r.at;
            match step(&mut r, &mut s, host)? {
                Ok(false) => {}
                Ok(true) => break,
                Err(Empty) => return Err(TorchError::Broken { at, why: "an operation without its operands".into() }),
            }
            if s.memory > most {
                return Err(TorchError::Content(format!(
                    "its pickle would fill the memory: {} of its bytes make values of {} MiB, and {} are read, far more than a state dict \
                     takes. Save that alone: torch.save(model.state_dict(), FILE)",
                    r.at - start,
                    s.memory >> 20,
                    most >> 20
                )));
            }
        }
        s.pickle.root = s.top().map_err(|Empty| r.broken("a pickle of nothing"))?;
        s.pickle.end = r.at;
        Ok(s.pickle)
    }

    pub fn get(&self, id: Id) -> &Value<T> {
        &self.values[id]
    }

    pub fn root(&self) -> &Value<T> {
        self.get(self.root)
    }

    /// Names that the host does not know, in the order of their first use.
    pub fn kinds(&self) -> &[String] {
        &self.kinds
    }

    /// What `dict` has under `key`: the last of several, as in Python.
    pub fn entry(&self, dict: &Value<T>, key: &str) -> Option<&Value<T>> {
        let Value::Dict(entries) = dict else { return None };
        let named = |id: &Id| matches!(self.get(*id), Value::Text(text) if text == key);
        entries.iter().rev().find(|(id, _)| named(id)).map(|(_, value)| self.get(*value))
    }
}

/// One operation; true at the last.
fn step<H: Host>(r: &mut Reader, s: &mut Stack<H::Thing>, host: &mut H) -> Result<Result<bool, Empty>, TorchError> {
    // Two kinds of errors: the file's and the host's go out, a stack that lacks something is told by the caller.
    macro_rules! need {
        ($e:expr) => {
            match $e {
                Ok(value) => value,
                Err(Empty) => return Ok(Err(Empty)),
            }
        };
    }
    let code = r.take(1)?[0];
    match code {
        0x80 => drop(r.take(1)?), // PROTO
        0x95 => drop(r.take(8)?), // FRAME
        b'.' => return Ok(Ok(true)),
        b'(' => {
            s.memory += size_of::<usize>();
            s.marks.push(s.items.len());
        }
        b'0' => drop(need!(s.pop())),
        b'1' => drop(need!(s.pop_marked())),
        b'2' => {
            let top = need!(s.top());
            s.refer(top);
        }
        b'N' => s.push(Value::None),
        0x88 => s.push(Value::Bool(true)),
        0x89 => s.push(Value::Bool(false)),
        b'J' => s.push(r.signed(4)?),
        b'K' => s.push(Value::Int(r.unsigned(1)? as i128)),
        b'M' => s.push(Value::Int(r.unsigned(2)? as i128)),
        0x8a | 0x8b => {
            let n = r.unsigned(if code == 0x8a { 1 } else { 4 })?;
            s.push(r.signed(n)?);
        }
        b'G' => {
            r.take(8)?;
            s.push(Value::Plain);
        }
        // Bytes, and a bytearray.
        b'C' | b'B' | 0x8e | 0x96 => {
            let n = r.unsigned(match code {
                b'C' => 1,
                b'B' => 4,
                _ => 8,
            })?;
            r.take(n)?;
            s.push(Value::Plain);
        }
        b'U' | 0x8c => {
            let n = r.unsigned(1)?;
            s.push(Value::Text(r.text(n)?));
        }
        b'T' | b'X' | 0x8d => {
            let n = r.unsigned(if code == 0x8d { 8 } else { 4 })?;
            s.push(Value::Text(r.text(n)?));
        }
        b')' => s.push(Value::Tuple(Vec::new())),
        b't' => {
            let items = need!(s.pop_marked());
            s.push(Value::Tuple(items));
        }
        0x85..=0x87 => {
            let items = need!(s.pop_last(usize::from(code - 0x84)));
            s.push(Value::Tuple(items));
        }
        b']' | 0x8f => s.push(Value::List(Vec::new())),
        // A list, a frozenset.
        b'l' | 0x91 => {
            let items = need!(s.pop_marked());
            s.push(Value::List(items));
        }
        b'a' => {
            let item = need!(s.pop());
            need!(s.append(vec![item]));
        }
        b'e' | 0x90 => {
            let items = need!(s.pop_marked());
            need!(s.append(items));
        }
        b'}' => s.push(Value::Dict(Vec::new())),
        b'd' => {
            let items = need!(s.pop_marked());
            s.push(Value::Dict(pairs(&items).collect()));
        }
        b's' => {
            let items = need!(s.pop_last(2));
            need!(s.set(items));
        }
        b'u' => {
            let items = need!(s.pop_marked());
            need!(s.set(items));
        }
        b'h' | b'j' => {
            let key = r.unsigned(if code == b'h' { 1 } else { 4 })?;
            let id = need!(s.memo.get(&key).copied().ok_or(Empty));
            s.refer(id);
        }
        b'q' | b'r' | 0x94 => {
            let key = match code {
                b'q' => r.unsigned(1)?,
                b'r' => r.unsigned(4)?,
                _ => s.memo.len(),
            };
            let top = need!(s.top());
            s.memory += 2 * size_of::<(usize, Id)>(); // a map has room for more than it holds
            s.memo.insert(key, top);
        }
        b'c' | 0x93 => {
            let (module, name) = if code == b'c' {
                (r.line()?, r.line()?)
            } else {
                let name = need!(s.pop_text());
                (need!(s.pop_text()), name)
            };
            // Names of a file are told to users: what could steer a terminal is escaped.
            let name = format!("{module}.{name}").escape_debug().to_string();
            let made = host.global(&name).map(Value::Host);
            let made = made.map_or_else(|| s.kind(name).map(Value::Opaque), Ok)?;
            s.push(made);
        }
        // Of a function or of a class, here with keywords, too: what is made depends on its name alone.
        b'R' | 0x81 | 0x92 => {
            if code == 0x92 {
                need!(s.pop());
            }
            let (args, function) = (need!(s.pop()), need!(s.pop()));
            let made = match (s.pickle.get(function), s.pickle.get(args)) {
                (Value::Opaque(kind), _) => Value::Opaque(*kind),
                (Value::Host(function), Value::Tuple(args)) => host.apply(&s.pickle, function, args)?,
                _ => return Ok(Err(Empty)),
            };
            s.push(made);
        }
        // Attributes, which neither a tensor nor a state dict needs.
        b'b' => {
            need!(s.pop());
            need!(s.top());
        }
        b'Q' => {
            let id = need!(s.pop());
            let Value::Tuple(id) = s.pickle.get(id) else { return Ok(Err(Empty)) };
            let made = host.persistent(&s.pickle, id)?;
            s.push(made);
        }
        other => {
            return Err(TorchError::Broken {
                at: r.at - 1,
                why: format!("pickle operation {other:#04x}, which is not of protocols 2 to 5,"),
            });
        }
    }
    Ok(Ok(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a thing of every name and of every call.
    struct Maker;

    impl Host for Maker {
        type Thing = ();

        fn global(&self, _: &str) -> Option<()> {
            Some(())
        }

        fn apply(&self, _: &Pickle<()>, (): &(), _: &[Id]) -> Result<Value<()>, TorchError> {
            Ok(Value::Host(()))
        }

        fn persistent(&mut self, _: &Pickle<()>, _: &[Id]) -> Result<Value<()>, TorchError> {
            Ok(Value::Host(()))
        }
    }

    #[test]
    fn a_pickle_that_would_fill_the_memory_is_refused_whatever_it_fills_it_with() {
        let read = |most: usize, pickle: &[u8]| Pickle::read_within(most, pickle, 0, &mut Maker).map(|_| ());
        let repeated = |start: &[u8], again: &[u8]| [start, &again.repeat(30_000), b"."].concat();
        for (what, pickle, least) in [
            ("values", repeated(b"", b"N"), 1 << 20),
            ("the same value", repeated(b"N", b"2"), 200_000),
            ("a value by its number", repeated(b"Nq\0", b"h\0"), 200_000),
            ("numbers of values", repeated(b"N", b"\x94"), 400_000),
            ("marks", repeated(b"N", b"("), 200_000),
            ("things", repeated(b"ca\nb\n)q\0", b"ca\nb\n"), 1 << 23),
            ("a list's items", repeated(b"]q\0", b"h\0a"), 400_000),
            ("a dict's entries", repeated(b"}q\0", b"h\0h\0s"), 800_000),
        ] {
            let message = read(least, &pickle).expect_err(what).to_string();
            assert!(message.contains("would fill the memory") && message.contains("torch.save(model.state_dict()"), "{message}");
            assert_eq!(read(MOST_MEMORY, &pickle), Ok(()), "{what}");
        }
    }
}
