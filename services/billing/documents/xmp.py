"""Declares in the metadata of a PDF that it carries a Factur-X e-invoice, as that standard asks for (section 6.2 of its
specification): readers look there before they look for the attachment."""

from __future__ import annotations

from io import BytesIO
from typing import Final

from pypdf import PdfReader, PdfWriter
from pypdf.generic import DecodedStreamObject, NameObject, StreamObject

_END: Final = b"</rdf:RDF>"
_DECLARATION: Final = b"""<rdf:Description rdf:about="" xmlns:fx="urn:factur-x:pdfa:CrossIndustryDocument:invoice:1p0#">
<fx:DocumentType>INVOICE</fx:DocumentType>
<fx:DocumentFileName>factur-x.xml</fx:DocumentFileName>
<fx:Version>1.0</fx:Version>
<fx:ConformanceLevel>EN 16931</fx:ConformanceLevel>
</rdf:Description>
<rdf:Description rdf:about="" xmlns:pdfaExtension="http://www.aiim.org/pdfa/ns/extension/"
 xmlns:pdfaSchema="http://www.aiim.org/pdfa/ns/schema#" xmlns:pdfaProperty="http://www.aiim.org/pdfa/ns/property#">
<pdfaExtension:schemas><rdf:Bag><rdf:li rdf:parseType="Resource">
<pdfaSchema:schema>Factur-X PDFA Extension Schema</pdfaSchema:schema>
<pdfaSchema:namespaceURI>urn:factur-x:pdfa:CrossIndustryDocument:invoice:1p0#</pdfaSchema:namespaceURI>
<pdfaSchema:prefix>fx</pdfaSchema:prefix>
<pdfaSchema:property><rdf:Seq>%s</rdf:Seq></pdfaSchema:property>
</rdf:li></rdf:Bag></pdfaExtension:schemas>
</rdf:Description>
"""
_PROPERTY: Final = b"""<rdf:li rdf:parseType="Resource"><pdfaProperty:name>%s</pdfaProperty:name>
<pdfaProperty:valueType>Text</pdfaProperty:valueType><pdfaProperty:category>external</pdfaProperty:category>
<pdfaProperty:description>%s</pdfaProperty:description></rdf:li>"""
_PROPERTIES: Final = (
    (b"DocumentFileName", b"The name of the embedded XML document"),
    (b"DocumentType", b"The type of the hybrid document in capital letters, e.g. INVOICE or ORDER"),
    (b"Version", b"The actual version of the standard applying to the embedded XML document"),
    (b"ConformanceLevel", b"The conformance level of the embedded XML document"),
)


def declare_factur_x(pdf: bytes) -> bytes:
    """Return the PDF with the declaration added to its XMP metadata. Raises `ValueError` if it has none."""
    writer = PdfWriter(clone_from=PdfReader(BytesIO(pdf)))
    metadata = writer.root_object["/Metadata"]
    if not isinstance(metadata, StreamObject):
        raise ValueError("a PDF without XMP metadata cannot be declared to be Factur-X")
    before, end, after = metadata.get_data().partition(_END)
    if not end:
        raise ValueError("the XMP metadata of the PDF has no RDF")
    properties = b"".join(_PROPERTY % each for each in _PROPERTIES)
    stream = DecodedStreamObject()
    stream.update({NameObject("/Type"): NameObject("/Metadata"), NameObject("/Subtype"): NameObject("/XML")})
    stream.set_data(before + _DECLARATION % properties + end + after)
    writer._replace_object(writer.root_object.raw_get("/Metadata"), stream)
    out = BytesIO()
    writer.write(out)
    return out.getvalue()
