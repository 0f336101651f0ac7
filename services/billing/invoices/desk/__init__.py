"""What operators say about invoices, with the rights of an operator's login: who issues and who receives them. Workers do not import it."""
