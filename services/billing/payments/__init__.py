"""Payments: what pays invoices and credit packages, what is given back, and what happens when nothing comes.

Owns payments, payment_methods, payment_allocations, payment_refunds, payment_events, bank_statement_lines, dunning_attempts and
billing_history, and of invoices their amount_paid and payment state. Invariants:

1. A payment counts once, however often and in whatever order a provider, a bank or a person tells of it: its status only moves up
   (`state.py`), and what it pays is allocated under the lock of its customer.
2. What a customer is asked for is stored before a provider is asked, with the key that makes asking again harmless.
3. Refunds that did not fail never sum to more than their payment.
4. Every change of money is in `billing_history` and `audit_logs`, in the same transaction.
"""
