//! What the application returned: sent piece by piece, and closed.

use pyo3::exceptions::{PyAssertionError, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use super::file_wrapper::{Direct, FileWrapper};
use super::interrupt::{Inside, Interruptible};
use super::raw::AttachedMutex;
use super::start_response::{Response, type_name, wait_for_room};
use crate::gateway::Sent;

/// Sends all of `result`, or as much as the client takes.
///
/// # Errors
/// What the application raised or did wrong.
pub(super) fn send(
    py: Python<'_>,
    shared: &AttachedMutex<Response>,
    result: &Bound<'_, PyAny>,
    interrupt: &Interruptible,
) -> PyResult<()> {
    if let Ok(list) = result.cast_exact::<PyList>()
        && list.len() == 1
        && let Ok(piece) = list.get_item(0)?.cast::<PyBytes>()
    {
        return send_all(py, shared, std::slice::from_ref(piece));
    }
    if let Ok(bytes) = result.cast::<PyBytes>() {
        // Not what PEP 3333 asks for, but uWSGI sends it whole, and byte by byte nobody wants it.
        send_all(py, shared, std::slice::from_ref(bytes))?;
    } else if let Some(pieces) = finished(result)? {
        send_all(py, shared, &pieces)?;
    } else if !send_file(py, shared, result)? {
        send_each(py, shared, result, interrupt)?;
    }
    // An application that is a generator calls start_response at the first step.
    require_head(&shared.lock(py))
}

/// The pieces of a result that is there as a whole already; None for other iterables.
fn finished<'py>(result: &Bound<'py, PyAny>) -> PyResult<Option<Vec<Bound<'py, PyBytes>>>> {
    let pieces: Vec<Bound<'py, PyAny>> = if let Ok(list) = result.cast_exact::<PyList>() {
        list.iter().collect()
    } else if let Ok(tuple) = result.cast_exact::<PyTuple>() {
        tuple.iter().collect()
    } else if result.is_instance_of::<PyString>() {
        return Err(wrong_type("the application returned", result));
    } else {
        return Ok(None);
    };
    let piece = |piece: Bound<'py, PyAny>| {
        piece.cast_into::<PyBytes>().map_err(|error| wrong_type("the application's iterable gave", &error.into_inner()))
    };
    pieces.into_iter().map(piece).collect::<PyResult<_>>().map(Some)
}

/// Sends a response of known length. It is handed over whole: the worker keeps what the client is too slow for, so
/// that this thread is free.
fn send_all(py: Python<'_>, shared: &AttachedMutex<Response>, pieces: &[Bound<'_, PyBytes>]) -> PyResult<()> {
    let total = pieces.iter().map(|piece| piece.as_bytes().len() as u64).sum();
    let mut response = shared.lock(py);
    for piece in pieces {
        if piece.as_bytes().is_empty() {
            continue;
        }
        require_head(&response)?;
        if response.send(piece, Some(total)) == Sent::Gone {
            break;
        }
    }
    require_head(&response)
}

/// Sends a wrapped file as a whole, where that can be. False: nothing is sent yet.
fn send_file(py: Python<'_>, shared: &AttachedMutex<Response>, result: &Bound<'_, PyAny>) -> PyResult<bool> {
    let Ok(wrapper) = result.cast_exact::<FileWrapper>() else { return Ok(false) };
    if shared.lock(py).exchange.as_ref().is_none_or(|exchange| exchange.head_sent()) {
        // Behind what write() sent.
        return Ok(false);
    }
    let Some(direct) = wrapper.get().direct(py) else { return Ok(false) };
    let mut response = shared.lock(py);
    let response = &mut *response;
    require_head(response)?;
    if let Some(exchange) = &mut response.exchange {
        exchange.is_from_file();
    }
    match direct {
        Direct::Part(part) => py.detach(|| response.send_file(part)),
        Direct::Bytes(bytes) if bytes.is_empty() => {}
        Direct::Bytes(bytes) => response.send_own(bytes),
    }
    Ok(true)
}

/// Sends what an iterable gives, as it gives it.
fn send_each(
    py: Python<'_>,
    shared: &AttachedMutex<Response>,
    result: &Bound<'_, PyAny>,
    interrupt: &Interruptible,
) -> PyResult<()> {
    let mut pieces = {
        let _inside = Inside::enter(interrupt)?;
        result.try_iter()?
    };
    loop {
        let piece = {
            let _inside = Inside::enter(interrupt)?;
            pieces.next()
        };
        let Some(piece) = piece.transpose()? else { break };
        let Ok(piece) = piece.cast::<PyBytes>() else {
            return Err(wrong_type("the application's iterable gave", &piece));
        };
        if piece.as_bytes().is_empty() {
            continue;
        }
        let mut response = shared.lock(py);
        require_head(&response)?;
        // Only now: the piece that made it full may have been the last one.
        wait_for_room(py, &mut response);
        if response.gone || response.send(piece, None) == Sent::Gone {
            break;
        }
    }
    Ok(())
}

fn require_head(response: &Response) -> PyResult<()> {
    if response.head.is_started() || response.exchange.as_ref().is_some_and(|exchange| exchange.head_sent()) {
        return Ok(());
    }
    Err(PyAssertionError::new_err("the application did not call start_response before its response began"))
}

fn wrong_type(who: &str, object: &Bound<'_, PyAny>) -> PyErr {
    PyTypeError::new_err(format!("{who} {}, not bytes", type_name(object)))
}

/// Calls the result's `close()`, if it has one.
///
/// # Errors
/// What `close()` raised.
pub(super) fn close(py: Python<'_>, result: &Bound<'_, PyAny>) -> PyResult<()> {
    if result.is_exact_instance_of::<PyList>()
        || result.is_exact_instance_of::<PyTuple>()
        || result.is_exact_instance_of::<PyBytes>()
    {
        return Ok(());
    }
    if let Some(close) = result.getattr_opt(intern!(py, "close"))? {
        close.call0()?;
    }
    Ok(())
}
