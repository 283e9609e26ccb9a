//! A faithful, faulty-on-request Dintero.
