"""The machinery behind `tailrace`: ring, spool, delivery, sampler, hosts and command line. No public interface."""
