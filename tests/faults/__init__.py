"""Breaking tailrace on purpose: an oracle, a faulty server, programs to kill. The long runs are here too."""
