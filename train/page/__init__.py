"""A page of HTML that needs nothing else: document and charts."""
